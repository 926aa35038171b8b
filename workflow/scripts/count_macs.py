from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.backbones.load import build_image_tower
    from tgems.profiling.count_backbone import count_backbone

    use_threads(snakemake.threads)
    params = snakemake.params
    tower = build_image_tower(params.backbone)
    count_backbone(params.backbone, tower, params.modules, params.rate_targets, snakemake.output[0])
