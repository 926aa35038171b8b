from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import ConfidenceTraining
    from tgems.exits.training_jobs import run_gates

    use_threads(snakemake.threads)
    files, seeds, out = snakemake.input, snakemake.params.seeds, list(snakemake.output)
    options, memory = ConfidenceTraining(**snakemake.params.options), snakemake.config["features"]["in_memory_gb"]
    run_gates("confidence", files.features, files.macs, files.heads, options, seeds, out, memory)
