from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.backbones.load import load_backbone
    from tgems.features.extract import extract_features

    use_threads(snakemake.threads)
    extract_features(
        load_backbone(snakemake.params.backbone),
        Path(snakemake.input.split),
        snakemake.params.task,
        Path(snakemake.output[0]),
        **snakemake.params.options,
    )
