from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.reporting.run_record import write_provenance
    from tgems.reporting.tables import make_tables

    parts = {part: snakemake.input[part] for part in snakemake.params.parts}
    evaluations, folder = snakemake.input.provenance, Path(snakemake.output[0]).parent
    make_tables(parts, snakemake.input.macs, evaluations, snakemake.params.config, folder)
    write_provenance(snakemake.input.provenance, snakemake.params.config, Path(snakemake.output.provenance))
