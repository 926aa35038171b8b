from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.backbones.load import load_backbone
    from tgems.data.webdataset import SplitFiles
    from tgems.features.extract import extract_features
    from tgems.features.shards import Encoding

    use_threads(1)
    params, files = snakemake.params, snakemake.input
    backbone = load_backbone(params.backbone)
    encoding = Encoding.of_job(params.encoding, snakemake.config["features"])
    splits = [files.split] if isinstance(files.split, str) else files.split
    for split, out in zip(splits, snakemake.output, strict=True):
        extract_features(backbone, SplitFiles.of(split, params.task), Path(out), encoding)
