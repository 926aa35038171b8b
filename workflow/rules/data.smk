rule describe_demo:
    input:
        code=CODE["data"],
    output:
        demo_prompt_files(),
    log:
        "logs/describe_demo.log",
    benchmark:
        "benchmarks/describe_demo.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        datasets=DEMO,
    message:
        "Write class names and templates of the demo data sets"
    script:
        "../scripts/describe_demo.py"


rule generate_demo:
    input:
        code=CODE["data"],
    output:
        directory("results/data/{dataset}/{split}"),
    log:
        "logs/generate_demo/{dataset}-{split}.log",
    benchmark:
        "benchmarks/generate_demo/{dataset}-{split}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        n=lookup(within=config, dpath="demo/{split}"),
        seed=lookup(within=config, dpath="demo/seed"),
        shard_size=lookup(within=config, dpath="demo/shard_size"),
    message:
        "Draw the digit scenes {wildcards.dataset}/{wildcards.split}"
    script:
        "../scripts/generate_demo.py"
