from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.evaluation.stage import run_thresholds

    use_threads(snakemake.threads)
    run_thresholds(snakemake.input.validation, snakemake.input.macs, dict(snakemake.output.items()), **snakemake.params)
