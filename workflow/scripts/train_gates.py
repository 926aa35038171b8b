from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import BankGateOptions, ConfidenceTraining, RouterTraining
    from tgems.exits.training_jobs import run_gates

    use_threads(snakemake.threads)
    kind, files, params = snakemake.wildcards.gates, snakemake.input, snakemake.params
    models = {"variance": BankGateOptions, "router": RouterTraining, "confidence": ConfidenceTraining}
    options, memory = models[kind](**params.options), snakemake.config["features"]["in_memory_gb"]
    run_gates(kind, files.features, files.macs, files.heads, options, params.seeds, snakemake.output, memory)
