rule fit_thresholds:
    input:
        validation=named_split("validation"),
        modules=trained_modules,
        macs="results/profiling/{backbone}/macs.json",
        code=CODE["evaluation"],
    output:
        "results/evaluation/{backbone}/{dataset}/thresholds.json",
    log:
        "logs/fit_thresholds/{backbone}-{dataset}.log",
    benchmark:
        "benchmarks/fit_thresholds/{backbone}-{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        exits="results/exits/{backbone}",
        seeds=SEEDS,
        rate_targets=lookup(within=config, dpath="rate_targets"),
        policies=lookup(within=config, dpath="policies"),
        guidance=lookup(within=config, dpath="guidance"),
    message:
        "Fit thresholds of {wildcards.backbone} on validation images of {wildcards.dataset}"
    script:
        "../scripts/fit_thresholds.py"


rule evaluate:
    input:
        test=named_split("test"),
        images=test_images,
        thresholds="results/evaluation/{backbone}/{dataset}/thresholds.json",
        modules=trained_modules,
        macs="results/profiling/{backbone}/macs.json",
        code=CODE["evaluation"],
    output:
        tradeoff="results/evaluation/{backbone}/{dataset}/tradeoff.parquet",
        exits="results/evaluation/{backbone}/{dataset}/exits.parquet",
        semantic_content="results/evaluation/{backbone}/{dataset}/semantic_content.parquet",
        gallery="results/evaluation/{backbone}/{dataset}/gallery.parquet",
        provenance="results/evaluation/{backbone}/{dataset}/provenance.json",
    log:
        "logs/evaluate/{backbone}-{dataset}.log",
    benchmark:
        "benchmarks/evaluate/{backbone}-{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        exits="results/exits/{backbone}",
        seeds=SEEDS,
        rate_targets=lookup(within=config, dpath="rate_targets"),
        policies=lookup(within=config, dpath="policies"),
        guidance=lookup(within=config, dpath="guidance"),
        task=lookup(within=config, dpath="datasets/{dataset}/task"),
        bootstrap_resamples=lookup(
            within=config, dpath="evaluation/bootstrap_resamples"
        ),
    message:
        "Evaluate {wildcards.backbone} on test images of {wildcards.dataset}"
    script:
        "../scripts/evaluate.py"
