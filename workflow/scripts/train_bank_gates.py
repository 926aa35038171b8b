from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_bank_gates

    use_threads(snakemake.threads)
    run_bank_gates(
        snakemake.input.features,
        snakemake.input.heads,
        dict(snakemake.params.options),
        int(snakemake.wildcards.seed),
        snakemake.output[0],
    )
