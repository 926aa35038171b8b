from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from tgems.reporting.figures import plot_figure

    plot_figure(
        snakemake.wildcards.figure, snakemake.input.tables, snakemake.input.exits, snakemake.output.pdf, snakemake.output.png
    )
