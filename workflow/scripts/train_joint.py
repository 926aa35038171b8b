from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.training import JointTraining
    from tgems.exits.training_jobs import run_joint

    use_threads(snakemake.threads)
    files, wildcards = snakemake.input, snakemake.wildcards
    target, seed, out = float(wildcards.rate), int(wildcards.seed), snakemake.output[0]
    options, memory = JointTraining(**snakemake.params.options), snakemake.config["features"]["in_memory_gb"]
    run_joint(files.features, files.macs, wildcards.guidance, target, options, seed, out, memory)
