from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.pareto import report_pareto

    report_pareto(
        snakemake.input.outcomes,
        snakemake.input.settings,
        snakemake.input.latency,
        snakemake.params.config,
        Path(snakemake.output.pareto),
        snakemake.output.pdf,
        snakemake.output.png,
    )
