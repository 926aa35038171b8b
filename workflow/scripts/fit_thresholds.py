from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.config.run import QueryBankOptions
    from tgems.evaluation.jobs import run_thresholds
    from tgems.evaluation.split import Trained

    use_threads(snakemake.threads)
    files, out, params = snakemake.input, dict(snakemake.output.items()), dict(snakemake.params.items())
    trained = Trained(**params.pop("trained"))
    options, memory = params.pop("query_bank"), snakemake.config["features"]["in_memory_gb"]
    params["query_bank"] = options and QueryBankOptions(**options)
    run_thresholds(files.validation, files.macs, list(files.captions), out, trained, **params, in_memory_gb=memory)
