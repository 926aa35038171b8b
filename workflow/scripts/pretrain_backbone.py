from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    import json
    from pathlib import Path

    from tgems.config.run import PretrainingOptions
    from tgems.demo.pretraining import pretrain

    use_threads(snakemake.threads)
    pretrain(
        Path(snakemake.input.split),
        json.loads(Path(snakemake.input.architecture).read_text()),
        PretrainingOptions(**snakemake.params.recipe),
        Path(snakemake.params.checkpoint),
        Path(snakemake.output[0]),
    )
