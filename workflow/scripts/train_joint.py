from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_joint

    use_threads(snakemake.threads)
    files, wildcards = snakemake.input, snakemake.wildcards
    target, seed, out = float(wildcards.rate), int(wildcards.seed), snakemake.output[0]
    run_joint(files.features, files.macs, wildcards.guidance, target, snakemake.params.options, seed, out)
