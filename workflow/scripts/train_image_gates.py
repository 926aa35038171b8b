from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import ImageGateOptions
    from tgems.exits.training_jobs import run_image_gates

    use_threads(snakemake.threads)
    files, params = snakemake.input, snakemake.params
    target, out = float(snakemake.wildcards.rate), list(snakemake.output)
    options, memory = ImageGateOptions(**params.options), snakemake.config["features"]["in_memory_gb"]
    run_image_gates(files.features, files.macs, files.foresight, target, options, params.seeds, out, memory)
