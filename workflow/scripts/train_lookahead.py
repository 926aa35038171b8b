from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.exits.stage import run_lookahead

    use_threads(snakemake.threads)
    files, params = snakemake.input, snakemake.params
    run_lookahead(files.features, files.macs, files.heads, params.options, params.seeds, list(snakemake.output))
