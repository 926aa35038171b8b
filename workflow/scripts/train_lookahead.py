from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import LookaheadOptions
    from tgems.exits.training_jobs import run_lookahead

    use_threads(snakemake.threads)
    files, params = snakemake.input, snakemake.params
    options, memory = LookaheadOptions(**params.options), snakemake.config["features"]["in_memory_gb"]
    run_lookahead(files.features, files.macs, files.heads, options, params.seeds, list(snakemake.output), memory)
