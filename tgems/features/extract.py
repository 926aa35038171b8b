"""Extract the features of one split: reads shards and a backbone, writes one cache folder, memory flat in the data."""

import io
import logging
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tgems.backbones.load import Backbone
from tgems.data.webdataset import Sample, read_prompts, read_shard, shard_paths
from tgems.errors import UserError
from tgems.features.cache import seal
from tgems.features.encode import class_embeddings, encode_images, encode_texts
from tgems.provenance import commit, digest_file, digest_json, versions, whole_folder

logger = logging.getLogger(__name__)
METADATA = ("cluster", "difficulty", "n_digits", "layout")


def extract_features(
    backbone: Backbone,
    split: Path,
    task: str,
    out: Path,
    batch_size: int = 256,
    dtype: str = "float32",
    device: str = "cpu",
) -> None:
    """Encode every image once and every text once.

    Args:
        backbone: Frozen model.
        split: Folder of shards; its parent holds the prompts.
        task: `zeroshot_classification` or `zeroshot_retrieval`.
        out: Cache folder; appears whole or not at all.
        batch_size: Images a forward pass.
        dtype: Storage type of the summaries, `float32` or `float16`.
        device: torch device of the forward passes.

    Raises:
        UserError: An image cannot be decoded, labels do not fit the task, a value is not finite, or there is no such
            device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("config: features.device is 'cuda', but torch sees no CUDA device; set it to 'cpu'")
    backbone.model.to(device)
    with whole_folder(out) as partial:
        _extract(backbone, split, task, partial, batch_size, dtype, device)


def _extract(
    backbone: Backbone, split: Path, task: str, partial: Path, batch_size: int, dtype: str, device: str
) -> None:
    rows, captions = [], []
    paths = shard_paths(split)
    for number, path in enumerate(paths):
        samples = list(tqdm(read_shard(path), desc=f"{split.parent.name}/{split.name} {path.name}", mininterval=2))
        tensors = _encode_shard(backbone, samples, batch_size, path, device)
        tensors["summaries"] = tensors["summaries"].to(getattr(torch, dtype))
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise UserError(f"{path}: {name} holds values that are not finite in {value.dtype}; use float32")
        save_file(tensors, partial / f"{number}.safetensors")
        for sample in samples:
            captions += [(len(rows), caption) for caption in sample.captions]
            rows.append({"key": sample.key, "label": sample.label} | _metadata(sample))
    texts, prompts = _write_texts(backbone, split, task, rows, captions, partial)
    save_file({"embeddings": texts}, partial / "texts.safetensors")
    pd.DataFrame(rows).dropna(axis=1, how="all").to_parquet(partial / "samples.parquet")
    manifest = {
        "weights": backbone.weights_digest,
        "preprocess": backbone.preprocess_digest,
        "logit_scale": backbone.logit_scale,
        "blocks": list(backbone.blocks),
        "widths": [backbone.tower.widths[block - 1] for block in backbone.blocks[:-1]],
        "shards": {p.name: digest_file(p) for p in paths},
        "prompts": digest_json(prompts),
        "n_shards": len(paths),
        "n": len(rows),
        "recorded": {
            "backbone": backbone.entry,
            "dtype": dtype,
            "device": device,
            "versions": versions(),
            "commit": commit(),
        },
    }
    seal(partial, manifest)


def _encode_shard(backbone, samples: list[Sample], batch_size: int, path: Path, device: str) -> dict[str, Tensor]:
    parts = []
    for start in range(0, len(samples), batch_size):
        images = [_decode(backbone, s, path) for s in samples[start : start + batch_size]]
        encoded = encode_images(backbone.tower, torch.stack(images).to(device), backbone.blocks)
        parts.append({name: t.cpu() for name, t in encoded._asdict().items() if t is not None})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _decode(backbone: Backbone, sample: Sample, path: Path) -> Tensor:
    try:
        return backbone.preprocess(Image.open(io.BytesIO(sample.image)).convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: image of sample {sample.key!r} cannot be decoded ({error})") from None


def _metadata(sample: Sample) -> dict:
    return {k: sample.metadata[k] for k in METADATA if k in sample.metadata}


def _write_texts(backbone, split: Path, task: str, rows: list, captions: list, folder: Path) -> tuple[Tensor, list]:
    """Encode the classes or the distinct captions; for captions also write which image each belongs to."""
    model, tokenizer = backbone.model, backbone.tokenizer
    if task == "zeroshot_classification":
        prompts = read_prompts(split.parent)
        wrong = [r for r in rows if r["label"] is None or not 0 <= r["label"] < len(prompts.classnames)]
        if wrong:
            raise UserError(
                f"{split}: sample {wrong[0]['key']!r} has class {wrong[0]['label']}, "
                f"but classnames.txt lists {len(prompts.classnames)} classes"
            )
        texts = class_embeddings(model, tokenizer, prompts.classnames, prompts.templates)
        return texts, [prompts.classnames, prompts.templates]
    bare = set(range(len(rows))) - {image for image, _ in captions}
    if bare:
        raise UserError(f"{split}: sample {rows[min(bare)]['key']!r} has no caption, but the task is retrieval")
    number = {c: i for i, c in enumerate(dict.fromkeys(c for _, c in captions))}
    frame = pd.DataFrame([(image, number[c], c) for image, c in captions], columns=["image", "text", "caption"])
    frame.to_parquet(folder / "captions.parquet")
    return encode_texts(model, tokenizer, list(number)), list(number)
