from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.evaluation.stage import run_evaluation

    use_threads(snakemake.threads)
    about = {"backbone": snakemake.wildcards.backbone, "dataset": snakemake.wildcards.dataset}
    run_evaluation(
        snakemake.input.test,
        snakemake.input.images,
        snakemake.input.thresholds,
        snakemake.input.macs,
        dict(snakemake.output.items()),
        about,
        **snakemake.params,
    )
