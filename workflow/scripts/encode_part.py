from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.backbones.load import load_backbone
    from tgems.data.webdataset import SplitFiles
    from tgems.features.extract import encode_part
    from tgems.features.shards import Encoding

    use_threads(1)
    params, wildcards = snakemake.params, snakemake.wildcards
    backbone = load_backbone(params.backbone)
    encoding = Encoding.of_job(params.encoding, snakemake.config["features"])
    split, out = SplitFiles.of(snakemake.input.split, params.task), Path(snakemake.output[0])
    encode_part(backbone, split, out, encoding, int(wildcards.part), int(wildcards.of))
