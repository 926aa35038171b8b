from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from tgems.reporting.figures import plot_figure

    parts = {"exits": snakemake.input.exits, "gallery": snakemake.input.gallery}
    plot_figure(
        snakemake.wildcards.figure,
        snakemake.input.tables,
        parts,
        snakemake.params.variant,
        snakemake.params.compared,
        snakemake.output.pdf,
        snakemake.output.png,
    )
