from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.explorer import plot_explorer
    from tgems.reporting.run_record import require_results_of

    config = snakemake.params.config
    require_results_of(config, Path(snakemake.input.provenance))
    plot_explorer(snakemake.input.tradeoff, config["policies"], snakemake.output[0])
