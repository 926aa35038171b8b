from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_heads

    use_threads(snakemake.threads)
    files = snakemake.input
    run_heads(files.features, files.macs, snakemake.params.options, int(snakemake.wildcards.seed), snakemake.output[0])
