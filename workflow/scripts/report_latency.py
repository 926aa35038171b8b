from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.latency import report_latency

    files = snakemake.output
    report_latency(snakemake.input.parts, Path(files.csv), files.pdf, files.png)
