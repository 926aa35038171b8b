from tgems.jobs import job, use_threads

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from tgems.backbones.load import load_backbone
    from tgems.data.webdataset import SplitFiles
    from tgems.features.extract import extract_features
    from tgems.features.shards import Encoding, encoding_code

    use_threads(1)
    params, files, machine = snakemake.params, snakemake.input, snakemake.config["features"]
    backbone = load_backbone(params.backbone)
    machine = {key: machine[key] for key in ("batch_size", "workers", "device")}
    encoding = Encoding(**params.encoding, **machine, code=encoding_code())
    splits = [files.split] if isinstance(files.split, str) else files.split
    for split, out in zip(splits, snakemake.output, strict=True):
        extract_features(backbone, SplitFiles.of(split), params.task, Path(out), encoding)
