from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from tgems.data.fetch import fetch_split

    fetch_split(**snakemake.params.source, out=snakemake.output[0])
