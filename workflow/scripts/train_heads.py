from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import HeadOptions
    from tgems.exits.training_jobs import run_heads

    use_threads(snakemake.threads)
    files, memory = snakemake.input, snakemake.config["features"]["in_memory_gb"]
    options, seed = HeadOptions(**snakemake.params.options), int(snakemake.wildcards.seed)
    run_heads(files.features, files.macs, options, seed, snakemake.output[0], memory)
