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
        backbone=backbone_entry,
        rate_targets=unchecked_targets,
        modules=module_sizes,
    message:
        "Count multiply-accumulates of {wildcards.backbone}, {wildcards.variant}"
    script:
        "../scripts/count_macs.py"
