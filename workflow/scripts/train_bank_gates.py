from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_gates

    use_threads(snakemake.threads)
    files, seeds = snakemake.input, [int(snakemake.wildcards.seed)]
    run_gates(
        "bank", files.features, files.macs, [files.heads], snakemake.params.options, seeds, list(snakemake.output)
    )
