rule pretrain_backbone:
    input:
        split="<results>/data/scenes/backbone",
        architecture=f"{ROOT}/configs/backbones/{{backbone}}.json",
        code=code_of("pretrain_backbone"),
    output:
        directory("<results>/backbones/{backbone}"),
    log:
        "<logs>/pretrain_backbone/{backbone}.log",
    benchmark:
        "<benchmarks>/pretrain_backbone/{backbone}.tsv"
    threads: 1
    resources:
        mem_mb=memory(pretraining),
        runtime=minutes(pretraining),
    params:
        recipe=lookup(within=config, dpath="pretraining"),
        checkpoint=f"{RESULTS}/checkpoints/{{backbone}}.safetensors",
    message:
        "Pretrain {wildcards.backbone} (about an hour; resumes from results/checkpoints)"
    script:
        "../scripts/pretrain_backbone.py"
