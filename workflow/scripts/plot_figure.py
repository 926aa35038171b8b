from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.figures import plot_figure
    from tgems.reporting.run_record import require_results_of

    config = snakemake.params.config
    require_results_of(config, Path(snakemake.input.provenance))
    parts = {"exits": snakemake.input.exits, "gallery": snakemake.input.gallery}
    plot_figure(
        snakemake.wildcards.figure,
        snakemake.input.tables,
        parts,
        snakemake.params.variant,
        config["evaluation"]["compared"],
        config["policies"],
        snakemake.output.pdf,
        snakemake.output.png,
    )
