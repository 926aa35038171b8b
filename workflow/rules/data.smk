rule describe_demo:
    input:
        code=code_of("describe_demo"),
    output:
        demo_prompt_files(),
    log:
        "<logs>/describe_demo.log",
    benchmark:
        "<benchmarks>/describe_demo.tsv"
    threads: 1
    resources:
        mem_mb=memory(light),
        runtime=minutes(light),
    params:
        datasets=DEMO_DATASETS,
    message:
        "Write class names and templates of the demo data sets"
    script:
        "../scripts/describe_demo.py"


rule generate_demo:
    input:
        code=code_of("generate_demo"),
    output:
        directory("<results>/data/{dataset}/{split}"),
    log:
        "<logs>/generate_demo/{dataset}-{split}.log",
    benchmark:
        "<benchmarks>/generate_demo/{dataset}-{split}.tsv"
    threads: 1
    resources:
        mem_mb=memory(light),
        runtime=minutes(light),
    params:
        n=lookup(within=config, dpath="demo/{split}"),
        seed=lookup(within=config, dpath="demo/seed"),
        shard_size=lookup(within=config, dpath="demo/shard_size"),
    message:
        "Generate the digit scenes {wildcards.dataset}/{wildcards.split}"
    script:
        "../scripts/generate_demo.py"


rule fetch_split:
    input:
        files=local_files,
        code=code_of("fetch_split"),
    output:
        "<results>/data/{dataset}/{split}.json",
    log:
        "<logs>/fetch_split/{dataset}-{split}.log",
    benchmark:
        "<benchmarks>/fetch_split/{dataset}-{split}.tsv"
    threads: 1
    resources:
        mem_mb=memory(fetching),
        runtime=minutes(fetching),
    params:
        source=split_source,
    message:
        "Fetch or check {wildcards.dataset}/{wildcards.split}"
    script:
        "../scripts/fetch_split.py"
