rule count_macs:
    input:
        architecture=architecture_file,
        code=CODE["profiling"],
    output:
        "results/profiling/{backbone}/macs.json",
    log:
        "logs/count_macs/{backbone}.log",
    benchmark:
        "benchmarks/count_macs/{backbone}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        source=lookup(within=config, dpath="backbones/{backbone}/source"),
        head_hidden=lookup(within=config, dpath="heads/hidden"),
        gate_hidden=lookup(within=config, dpath="image_gates/hidden"),
    message:
        "Count multiply-accumulates of {wildcards.backbone}"
    script:
        "../scripts/count_macs.py"
