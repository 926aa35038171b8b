from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.evaluation.inputs import Trained
    from tgems.evaluation.stage import run_thresholds

    use_threads(snakemake.threads)
    files, out, params = snakemake.input, dict(snakemake.output.items()), dict(snakemake.params.items())
    trained = Trained(**params.pop("trained"))
    run_thresholds(files.validation, files.macs, list(files.captions), out, trained, **params)
