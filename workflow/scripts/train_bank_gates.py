from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import BankGateOptions
    from tgems.exits.training_jobs import run_gates

    use_threads(snakemake.threads)
    files, seeds, out = snakemake.input, [int(snakemake.wildcards.seed)], list(snakemake.output)
    options, memory = BankGateOptions(**snakemake.params.options), snakemake.config["features"]["in_memory_gb"]
    run_gates("bank", files.features, files.macs, [files.heads], options, seeds, out, memory)
