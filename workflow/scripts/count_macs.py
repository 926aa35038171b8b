from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.backbones.load import build_image_tower
    from tgems.profiling.count import count_backbone

    use_threads(snakemake.threads)
    source = snakemake.params.source
    count_backbone(source, build_image_tower(source), snakemake.params.modules, snakemake.output[0])
