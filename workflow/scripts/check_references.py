from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.references import write_references

    write_references(Path(snakemake.input.tradeoff), snakemake.params.backbones, Path(snakemake.output[0]))
