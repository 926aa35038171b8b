rule fit_thresholds:
    input:
        validation="<results>/features/{backbone}/{dataset}/validation",
        modules=trained_modules,
        captions=training_captions,
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        code=code_of("fit_thresholds") + OWN_POLICIES,
    output:
        **({"paths": PATHS} if RISK else {}),
        thresholds="<results>/evaluation/{backbone}/{variant}/{dataset}/thresholds.json",
        curves="<results>/evaluation/{backbone}/{variant}/{dataset}/validation_curves.parquet",
        settings="<results>/evaluation/{backbone}/{variant}/{dataset}/validation_settings.parquet",
    log:
        "<logs>/fit_thresholds/{backbone}-{variant}-{dataset}.log",
    benchmark:
        "<benchmarks>/fit_thresholds/{backbone}-{variant}-{dataset}.tsv"
    threads: 1
    resources:
        mem_mb=memory(fitting),
        runtime=minutes(fitting),
    params:
        trained=trained,
        policies=lookup(within=config, dpath="policies"),
        directions=lookup(within=config, dpath="datasets/{dataset}/directions"),
        query_bank=query_bank_options,
    message:
        "Fit thresholds of {wildcards.backbone}, {wildcards.variant}, on validation images of {wildcards.dataset}"
    script:
        "../scripts/fit_thresholds.py"


rule evaluate:
    input:
        unpack(threshold_files),
        unpack(path_files),
        test="<results>/features/{backbone}/{dataset}/test",
        images=split_files,
        prompts=prompt_files,
        curves=validation_curves,
        modules=trained_modules,
        captions=training_captions,
        macs="<results>/profiling/{backbone}/{variant}/macs.json",
        code=code_of("evaluate") + OWN_POLICIES,
    output:
        **{
            part: f"<results>/evaluation/{{backbone}}/{{variant}}/{{dataset}}/{part}.parquet"
            for part in EVALUATION_PARTS
        },
        provenance="<results>/evaluation/{backbone}/{variant}/{dataset}/provenance.json",
    log:
        "<logs>/evaluate/{backbone}-{variant}-{dataset}.log",
    benchmark:
        "<benchmarks>/evaluate/{backbone}-{variant}-{dataset}.tsv"
    threads: 1
    resources:
        mem_mb=memory(evaluating),
        runtime=minutes(evaluating),
    params:
        trained=trained,
        policies=lookup(within=config, dpath="policies"),
        directions=lookup(within=config, dpath="datasets/{dataset}/directions"),
        task=lookup(within=config, dpath="datasets/{dataset}/task"),
        risk_targets=lookup(within=config, dpath="risk_targets"),
    message:
        "Evaluate {wildcards.backbone}, {wildcards.variant}, on test images of {wildcards.dataset}"
    script:
        "../scripts/evaluate.py"
