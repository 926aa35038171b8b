from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.tables import make_tables, write_provenance

    macs = dict(zip(snakemake.params.backbones, snakemake.input.macs, strict=True))
    make_tables(snakemake.input.tradeoff, snakemake.input.semantic_content, macs, Path(snakemake.output[0]).parent)
    write_provenance(snakemake.input.provenance, snakemake.params.config, Path(snakemake.output.provenance))
