from tgems.jobs import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.data.webdataset import write_prompts
    from tgems.demo.datasets import PROMPTS

    root = Path(snakemake.output[0]).parents[1]
    for dataset in snakemake.params.datasets:
        write_prompts(root / dataset, PROMPTS[dataset])
