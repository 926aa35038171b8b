rule train_heads:
    input:
        features=training_features(),
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        code=code_of("train_heads"),
    output:
        directory("<results>/exits/{backbone}/{variant}/heads/seed-{seed}"),
    log:
        "<logs>/train_heads/{backbone}-{variant}-{seed}.log",
    benchmark:
        "<benchmarks>/train_heads/{backbone}-{variant}-{seed}.tsv"
    threads: 1
    resources:
        mem_mb=memory(training_heads),
        runtime=minutes(training_heads),
    params:
        options=lookup(within=config, dpath="variants/{variant}/heads"),
    message:
        "Train the heads of {wildcards.backbone}, {wildcards.variant}, seed {wildcards.seed}"
    script:
        "../scripts/train_heads.py"


rule train_lookahead:
    input:
        features=training_features(),
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        heads=each_seed("heads"),
        code=code_of("train_lookahead"),
    output:
        each_seed("lookahead", directory),
    log:
        "<logs>/train_lookahead/{backbone}-{variant}.log",
    benchmark:
        "<benchmarks>/train_lookahead/{backbone}-{variant}.tsv"
    threads: 1
    resources:
        mem_mb=memory(training_lookahead),
        runtime=minutes(training_lookahead),
    params:
        options=lookahead_options,
        seeds=SEEDS,
    message:
        "Train the lookahead of image-guided gates of {wildcards.backbone}, {wildcards.variant}, all seeds"
    script:
        "../scripts/train_lookahead.py"


rule train_image_gates:
    input:
        features=training_features(),
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        foresight=each_seed("lookahead"),
        code=code_of("train_image_gates"),
    output:
        each_seed("image/rate-{rate}", directory),
    log:
        "<logs>/train_image_gates/{backbone}-{variant}-{rate}.log",
    benchmark:
        "<benchmarks>/train_image_gates/{backbone}-{variant}-{rate}.tsv"
    threads: 1
    resources:
        mem_mb=memory(training_image_gates),
        runtime=minutes(training_image_gates),
    params:
        options=lookup(within=config, dpath="variants/{variant}/image_gates"),
        seeds=SEEDS,
    message:
        "Train image-guided gates of {wildcards.backbone}, {wildcards.variant}, for rate {wildcards.rate}, all seeds"
    script:
        "../scripts/train_image_gates.py"


rule train_bank_gates:
    input:
        features=training_features(),
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        heads="<results>/exits/{backbone}/{variant}/heads/seed-{seed}",
        code=code_of("train_bank_gates"),
    output:
        directory("<results>/exits/{backbone}/{variant}/bank/seed-{seed}"),
    log:
        "<logs>/train_bank_gates/{backbone}-{variant}-{seed}.log",
    benchmark:
        "<benchmarks>/train_bank_gates/{backbone}-{variant}-{seed}.tsv"
    threads: 1
    resources:
        mem_mb=memory(training_bank_gates),
        runtime=minutes(training_bank_gates),
    params:
        options=lookup(within=config, dpath="variants/{variant}/bank_gates"),
    message:
        "Train bank-guided gates of {wildcards.backbone}, {wildcards.variant}, seed {wildcards.seed}, for all rates"
    script:
        "../scripts/train_bank_gates.py"


rule train_gates:
    input:
        features=training_features(),
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        heads=each_seed("heads"),
        code=code_of("train_gates"),
    output:
        each_seed("{gates}", directory),
    log:
        "<logs>/train_gates/{backbone}-{variant}-{gates}.log",
    benchmark:
        "<benchmarks>/train_gates/{backbone}-{variant}-{gates}.tsv"
    threads: 1
    resources:
        mem_mb=memory(training_gates),
        runtime=minutes(training_gates),
    params:
        options=gate_options,
        seeds=SEEDS,
    message:
        "Train {wildcards.gates} gates of {wildcards.backbone}, {wildcards.variant}, all seeds"
    script:
        "../scripts/train_gates.py"


rule train_joint:
    input:
        features=training_features(),
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        code=code_of("train_joint"),
    output:
        directory(
            "<results>/exits/{backbone}/{variant}/joint-{guidance}/rate-{rate}/seed-{seed}"
        ),
    log:
        "<logs>/train_joint/{backbone}-{variant}-{guidance}-{rate}-{seed}.log",
    benchmark:
        "<benchmarks>/train_joint/{backbone}-{variant}-{guidance}-{rate}-{seed}.tsv"
    threads: 1
    resources:
        mem_mb=memory(training_joint),
        runtime=minutes(training_joint),
    params:
        options=joint_options,
    message:
        "Train heads and {wildcards.guidance}-guided gates of {wildcards.backbone}, {wildcards.variant}, together for rate {wildcards.rate}, seed {wildcards.seed}"
    script:
        "../scripts/train_joint.py"
