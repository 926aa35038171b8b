from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from tgems.evaluation.jobs import run_evaluation
    from tgems.evaluation.split import Trained

    use_threads(snakemake.threads)
    params, files = dict(snakemake.params.items()), dict(snakemake.input.items())
    run_evaluation(
        files["test"],
        files["images"],
        {c: files[c] for c in ("in_domain", "transfer", "online") if c in files},
        files["curves"],
        files["macs"],
        list(snakemake.input.captions),
        dict(snakemake.output.items()),
        {**snakemake.wildcards, "task": params.pop("task")},
        Trained(**params.pop("trained")),
        **params,
        in_memory_gb=snakemake.config["features"]["in_memory_gb"],
        paths=files.get("paths"),
    )
