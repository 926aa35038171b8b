from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.backbones.load import load_backbone
    from tgems.data.webdataset import SplitFiles
    from tgems.features.extract import extract_features
    from tgems.features.shards import Encoding, code_digest

    use_threads(1)
    params = snakemake.params
    backbone = load_backbone(params.backbone)
    encoding = Encoding(**params.encoding, code=code_digest(snakemake.input.code))
    extract_features(backbone, SplitFiles.of(snakemake.input.split), params.task, Path(snakemake.output[0]), encoding)
