from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.data.demo import PROMPTS
    from tgems.data.webdataset import write_prompts

    root = Path(snakemake.output[0]).parents[1]
    for dataset in snakemake.params.datasets:
        write_prompts(root / dataset, PROMPTS[dataset])
