rule extract_features:
    input:
        split=split_folder,
        prompts=prompt_files,
        backbone=weight_files,
        code=CODE["features"],
    output:
        directory("results/features/{backbone}/{dataset}/{split}"),
    log:
        "logs/extract_features/{backbone}-{dataset}-{split}.log",
    benchmark:
        "benchmarks/extract_features/{backbone}-{dataset}-{split}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        backbone=backbone_entry,
        task=lookup(within=config, dpath="datasets/{dataset}/task"),
        options=lookup(within=config, dpath="features"),
    message:
        "Encode {wildcards.dataset}/{wildcards.split} with {wildcards.backbone}"
    script:
        "../scripts/extract_features.py"
