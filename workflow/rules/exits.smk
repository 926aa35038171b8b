rule train_heads:
    input:
        features=training_features(),
        code=CODE["exits"],
    output:
        directory("results/exits/{backbone}/heads/seed-{seed}"),
    log:
        "logs/train_heads/{backbone}-{seed}.log",
    benchmark:
        "benchmarks/train_heads/{backbone}-{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options=lookup(within=config, dpath="heads"),
    message:
        "Train the heads of {wildcards.backbone}, seed {wildcards.seed}"
    script:
        "../scripts/train_heads.py"


rule train_image_gates:
    input:
        features=training_features(),
        heads=expand("results/exits/{{backbone}}/heads/seed-{seed}", seed=SEEDS),
        macs="results/profiling/{backbone}/macs.json",
        code=CODE["exits"],
    output:
        [
            directory(folder)
            for folder in expand(
                "results/exits/{{backbone}}/image/rate-{{rate}}/seed-{seed}",
                seed=SEEDS,
            )
        ],
    log:
        "logs/train_image_gates/{backbone}-{rate}.log",
    benchmark:
        "benchmarks/train_image_gates/{backbone}-{rate}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options=lookup(within=config, dpath="image_gates"),
        seeds=SEEDS,
    message:
        "Train image-guided gates of {wildcards.backbone} for rate {wildcards.rate}, all seeds"
    script:
        "../scripts/train_image_gates.py"


rule train_bank_gates:
    input:
        features=training_features(),
        heads="results/exits/{backbone}/heads/seed-{seed}",
        code=CODE["exits"],
    output:
        directory("results/exits/{backbone}/bank/seed-{seed}"),
    log:
        "logs/train_bank_gates/{backbone}-{seed}.log",
    benchmark:
        "benchmarks/train_bank_gates/{backbone}-{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options=lookup(within=config, dpath="bank_gates"),
    message:
        "Train bank-guided gates of {wildcards.backbone}, seed {wildcards.seed}, for all rates"
    script:
        "../scripts/train_bank_gates.py"
