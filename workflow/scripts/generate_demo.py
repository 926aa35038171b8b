from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from tgems.demo.datasets import generate_split

    generate_split(
        snakemake.wildcards.dataset, snakemake.wildcards.split, folder=snakemake.output[0], **snakemake.params
    )
