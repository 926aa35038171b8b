from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.references import write_references

    tradeoff, out = Path(snakemake.input.tradeoff), Path(snakemake.output[0])
    write_references(tradeoff, snakemake.params.backbones, out, snakemake.params.parts)
