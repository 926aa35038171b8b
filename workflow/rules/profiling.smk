rule count_macs:
    input:
        architecture=architecture_file,
        code=CODE["profiling"],
    output:
        "results/profiling/{backbone}/{variant}/macs.json",
    log:
        "logs/count_macs/{backbone}-{variant}.log",
    benchmark:
        "benchmarks/count_macs/{backbone}-{variant}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        source=lookup(within=config, dpath="backbones/{backbone}/source"),
        modules=module_sizes,
    message:
        "Count multiply-accumulates of {wildcards.backbone}, {wildcards.variant}"
    script:
        "../scripts/count_macs.py"
