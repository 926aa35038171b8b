from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_heads

    use_threads(snakemake.threads)
    run_heads(
        snakemake.input.features, dict(snakemake.params.options), int(snakemake.wildcards.seed), snakemake.output[0]
    )
