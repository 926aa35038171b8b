from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.evaluation.stage import run_thresholds

    use_threads(snakemake.threads)
    files, out = snakemake.input, dict(snakemake.output.items())
    run_thresholds(files.validation, files.macs, list(files.captions), out, **snakemake.params)
