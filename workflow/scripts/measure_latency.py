from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.config.run import LatencyOptions
    from tgems.runtime.latency import run_latency

    use_threads(snakemake.threads)
    params, files = snakemake.params, snakemake.input
    run_latency(
        params.backbone,
        params.hidden,
        params.rate_targets,
        Path(files.macs),
        [Path(path) for path in files.exits],
        LatencyOptions(**params.options),
        {"backbone": snakemake.wildcards.backbone},
        Path(snakemake.output[0]),
        [(Path(taken), Path(fitted)) for taken, fitted in zip(files.taken, files.thresholds, strict=True)],
    )
