from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.data.demo import PROMPTS
    from tgems.data.webdataset import write_prompts

    for dataset in snakemake.params.datasets:
        write_prompts(Path(snakemake.params.root) / dataset, PROMPTS[dataset])
