rule encode_part:
    input:
        split=split_files,
        backbone=weight_files,
        code=CODE["features"],
    output:
        "results/features/{backbone}/{dataset}/{split}.shards/part-{part}-of-{of}.json",
    log:
        "logs/encode_part/{backbone}-{dataset}-{split}-{part}-of-{of}.log",
    benchmark:
        "benchmarks/encode_part/{backbone}-{dataset}-{split}-{part}-of-{of}.tsv"
    conda:
        "../../environment.yml"
    threads: 1 + config["features"]["workers"]
    resources:
        gpu=GPU,
    params:
        backbone=backbone_entry,
        encoding=encoding,
    message:
        "Encode shards of {wildcards.dataset}/{wildcards.split} with {wildcards.backbone}, part {wildcards.part} of {wildcards.of}"
    script:
        "../scripts/encode_part.py"


rule extract_features:
    input:
        split=split_files,
        prompts=prompt_files,
        backbone=weight_files,
        parts=encoded_parts,
        code=CODE["features"],
    output:
        directory("results/features/{backbone}/{dataset}/{split}"),
    log:
        "logs/extract_features/{backbone}-{dataset}-{split}.log",
    benchmark:
        "benchmarks/extract_features/{backbone}-{dataset}-{split}.tsv"
    conda:
        "../../environment.yml"
    threads: 1 + config["features"]["workers"]
    resources:
        gpu=GPU,
    params:
        backbone=backbone_entry,
        task=lookup(within=config, dpath="datasets/{dataset}/task"),
        encoding=encoding,
    message:
        "Encode {wildcards.dataset}/{wildcards.split} with {wildcards.backbone}"
    script:
        "../scripts/extract_features.py"
