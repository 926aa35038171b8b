rule encode_part:
    input:
        split=split_files,
        backbone=weight_files,
        code=code_of("encode_part"),
    output:
        "<results>/features/{backbone}/{dataset}/{split}.shards/part-{part}-of-{of}.json",
    log:
        "<logs>/encode_part/{backbone}-{dataset}-{split}-{part}-of-{of}.log",
    benchmark:
        "<benchmarks>/encode_part/{backbone}-{dataset}-{split}-{part}-of-{of}.tsv"
    threads: 1 + config["features"]["workers"]
    resources:
        mem_mb=memory(encoding_part),
        runtime=minutes(encoding_part),
        gpu=GPU,
    params:
        backbone=backbone_entry,
        task=lookup(within=config, dpath="datasets/{dataset}/task"),
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
        code=code_of("extract_features"),
    output:
        directory("<results>/features/{backbone}/{dataset}/{split}"),
    log:
        "<logs>/extract_features/{backbone}-{dataset}-{split}.log",
    benchmark:
        "<benchmarks>/extract_features/{backbone}-{dataset}-{split}.tsv"
    wildcard_constraints:
        dataset=one_of(name for name in DATASETS if name not in TOGETHER),
    threads: 1 + config["features"]["workers"]
    resources:
        mem_mb=memory(encoding_split),
        runtime=minutes(encoding_split),
        gpu=GPU,
    params:
        backbone=backbone_entry,
        task=lookup(within=config, dpath="datasets/{dataset}/task"),
        encoding=encoding,
    message:
        "Encode {wildcards.dataset}/{wildcards.split} with {wildcards.backbone}"
    script:
        "../scripts/extract_features.py"


use rule extract_features as extract_training_features with:
    input:
        split=[
            "<results>/data/{dataset}/train",
            "<results>/data/{dataset}/validation",
            "<results>/data/{dataset}/test",
        ],
        prompts=prompt_files,
        backbone=weight_files,
        code=code_of("extract_features"),
    output:
        directory("<results>/features/{backbone}/{dataset}/train"),
        directory("<results>/features/{backbone}/{dataset}/validation"),
        directory("<results>/features/{backbone}/{dataset}/test"),
    log:
        "<logs>/extract_training_features/{backbone}-{dataset}.log",
    benchmark:
        "<benchmarks>/extract_training_features/{backbone}-{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(name for name in TOGETHER if name == TRAINED),
    resources:
        mem_mb=memory(encoding_demo),
        runtime=minutes(encoding_demo),
        gpu=GPU,
    message:
        "Encode the training data set {wildcards.dataset} with {wildcards.backbone}"


use rule extract_features as extract_demo_features with:
    input:
        split=[
            "<results>/data/{dataset}/validation",
            "<results>/data/{dataset}/test",
        ],
        prompts=prompt_files,
        backbone=weight_files,
        code=code_of("extract_features"),
    output:
        directory("<results>/features/{backbone}/{dataset}/validation"),
        directory("<results>/features/{backbone}/{dataset}/test"),
    log:
        "<logs>/extract_demo_features/{backbone}-{dataset}.log",
    benchmark:
        "<benchmarks>/extract_demo_features/{backbone}-{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(name for name in TOGETHER if name != TRAINED),
    resources:
        mem_mb=memory(encoding_demo),
        runtime=minutes(encoding_demo),
        gpu=GPU,
    message:
        "Encode {wildcards.dataset} with {wildcards.backbone}"
