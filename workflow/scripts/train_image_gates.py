from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_image_gates

    use_threads(snakemake.threads)
    run_image_gates(
        snakemake.input.features,
        snakemake.input.heads,
        snakemake.input.macs,
        float(snakemake.wildcards.rate),
        dict(snakemake.params.options),
        snakemake.params.seeds,
        snakemake.output,
    )
