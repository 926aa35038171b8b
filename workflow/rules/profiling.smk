rule count_macs:
    input:
        architecture=architecture_file,
        code=code_of("count_macs"),
    output:
        "<results>/profiling/{backbone}/{variant}/macs.json",
    log:
        "<logs>/count_macs/{backbone}-{variant}.log",
    benchmark:
        "<benchmarks>/count_macs/{backbone}-{variant}.tsv"
    threads: 1
    resources:
        mem_mb=memory(counting),
        runtime=minutes(counting),
    params:
        backbone=backbone_entry,
        rate_targets=unchecked_targets,
        modules=module_sizes,
    message:
        "Count multiply-accumulates of {wildcards.backbone}, {wildcards.variant}"
    script:
        "../scripts/count_macs.py"


rule measure_latency:
    input:
        unpack(measured_policies),
        macs=f"<results>/profiling/{{backbone}}/{VARIANTS[0]}/macs.json",
        exits=trained_exits,
        code=code_of("measure_latency") + OWN_POLICIES,
    output:
        "<results>/profiling/{backbone}/latency.csv",
    log:
        "<logs>/measure_latency/{backbone}.log",
    benchmark:
        "<benchmarks>/measure_latency/{backbone}.tsv"
    threads: latency_threads
    resources:
        mem_mb=memory(speed),
        runtime=minutes(speed),
        gpu=1 if config["latency"]["device"] == "cuda" else 0,
    params:
        backbone=backbone_entry,
        hidden=hidden_widths,
        rate_targets=lookup(within=config, dpath=f"variants/{VARIANTS[0]}/rate_targets"),
        options=lookup(within=config, dpath="latency"),
    message:
        "Measure the speed of {wildcards.backbone} on {threads} cores, with no other job running"
    script:
        "../scripts/measure_latency.py"
