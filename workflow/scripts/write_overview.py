from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.overview import write_overview
    from tgems.reporting.run_record import require_results_of

    config, provenance = snakemake.params.config, Path(snakemake.input.provenance)
    require_results_of(config, provenance)
    write_overview(
        provenance.parent,
        Path(snakemake.input.figure),
        config,
        Path(snakemake.output.overview),
        Path(snakemake.output.summary),
    )
