"""Extract the features of one split: encode the shards that are not encoded yet, then the texts.

Shards may be encoded beforehand by other jobs, also on other machines (`encode_part`). Their features are stored beside
the split's folder, in `{split}.shards/{i}`, and a job that was killed resumes at the first incomplete shard.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tgems.backbones.load import Backbone
from tgems.data.webdataset import SplitFiles, read_prompts
from tgems.errors import UserError
from tgems.features.cache import seal
from tgems.features.encode import class_embeddings, encode_texts
from tgems.features.shards import REFERENCE_IMAGES, Encoding, ensure_shard, use_device
from tgems.outputs import whole_folder, write_json
from tgems.provenance import commit, digest_json, versions

logger = logging.getLogger(__name__)


def encode_part(backbone: Backbone, split: SplitFiles, out: Path, encoding: Encoding, part: int, of: int) -> None:
    """Encode every `of`-th shard of a split, beginning with shard `part`, and write a receipt.

    Args:
        backbone: Frozen model.
        split: The split whose shards are encoded.
        out: Path of the receipt, `{split}.shards/part-{part}-of-{of}.json`; features are written beside it.
        encoding: How images are encoded.
        part: Number of the part, 0-based.
        of: Number of parts.
    """
    use_device(backbone, encoding)
    found = _encode(backbone, split, out.parent, encoding, range(part, len(split.shards), of))
    write_json(out, {"shards": {name: shard["files"] for name, shard in found.items()}})


def extract_features(backbone: Backbone, split: SplitFiles, out: Path, encoding: Encoding) -> None:
    """Encode the images and texts of a split, each once, and write the feature cache.

    Args:
        backbone: Frozen model.
        split: The split to encode.
        out: Folder of the cache, which appears only once it is complete. Features of shards are in `{out}.shards`.
        encoding: How images are encoded.

    Raises:
        UserError: An image cannot be decoded, a label or caption does not fit the task, a value is not finite, or the
            device is not available.
    """
    use_device(backbone, encoding)
    shards = shard_folder(out)
    found = _encode(backbone, split, shards, encoding, range(len(split.shards)))
    with whole_folder(out) as partial:
        samples, captions = _gather(shards, found)
        texts, captions, prompts = _texts(backbone, split, samples, captions, shards, found)
        save_file({"embeddings": texts}, partial / "texts.safetensors")
        samples.dropna(axis=1, how="all").to_parquet(partial / "samples.parquet")
        if captions is not None:
            captions.to_parquet(partial / "captions.parquet")
        if encoding.precision != "float32":
            _gather_reference(shards, found, partial)
        seal(partial, _manifest(backbone, encoding, found, prompts))


def shard_folder(out: Path) -> Path:
    """Return the folder of the features of a split's shards."""
    return out.with_name(f"{out.name}.shards")


def _encode(
    backbone: Backbone, split: SplitFiles, folder: Path, encoding: Encoding, numbers: Sequence[int]
) -> dict[str, dict]:
    reference = -(-REFERENCE_IMAGES // len(split.shards))
    found = {}
    for i in numbers:
        found[str(i)] = ensure_shard(backbone, split, split.shards[i], folder / str(i), encoding, reference)
    return found


def _gather(folder: Path, found: dict[str, dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Concatenate samples and captions of all shards, and number the images of captions within the split."""
    samples, captions, before = [], [], 0
    for name, shard in found.items():
        samples.append(pd.read_parquet(folder / name / "samples.parquet"))
        captions.append(
            pd.read_parquet(folder / name / "captions.parquet").assign(image=lambda f, b=before: f.image + b)
        )
        before += shard["n"]
    samples, captions = pd.concat(samples, ignore_index=True), pd.concat(captions, ignore_index=True)
    twice = samples["key"][samples["key"].duplicated()]
    if len(twice):
        raise UserError(f"{folder}: key {twice.iloc[0]!r} is in two shards; make keys unique within the split")
    return samples, captions


def _full_embeddings(folder: Path, found: dict[str, dict]) -> Tensor:
    """Return the embeddings of all images by the full encoder `[n, D]`, which take the place of captions."""
    files = [folder / name / f"{i:03}.safetensors" for name, s in found.items() for i in range(len(s["rows"]))]
    embeddings = []
    for file in files:
        with safe_open(file, "pt") as tensors:  # the summaries beside them are large
            embeddings.append(tensors.get_tensor("embeddings"))
    return torch.cat(embeddings)


def _gather_reference(folder: Path, found: dict[str, dict], partial: Path) -> None:
    places, embeddings, before = [], [], 0
    for name, shard in found.items():
        part = load_file(folder / name / "reference.safetensors")["embeddings"]
        places.append(before + torch.arange(len(part)))
        embeddings.append(part)
        before += shard["n"]
    save_file({"places": torch.cat(places), "embeddings": torch.cat(embeddings)}, partial / "reference.safetensors")


def _manifest(backbone: Backbone, encoding: Encoding, found: dict[str, dict], prompts: list) -> dict:
    skipped = [{"shard": s["tar"]} | one for s in found.values() for one in s["skipped"]]
    if skipped:
        logger.warning("%d samples were skipped; manifest.json lists them", len(skipped))
    return {
        "weights": backbone.weights_digest,
        "preprocess": backbone.preprocess_digest,
        "logit_scale": backbone.logit_scale,
        "logit_bias": backbone.logit_bias,
        "blocks": list(backbone.blocks),
        "widths": [backbone.tower.widths[block - 1] for block in backbone.blocks[:-1]],
        "grids": list(encoding.grids),
        "precision": encoding.precision,
        "shards": {s["tar"]: s["fingerprint"]["shard"] for s in found.values()},
        "parts": {name: {k: s[k] for k in ("n", "rows", "files", "bytes")} for name, s in found.items()},
        "prompts": digest_json(prompts),
        "n": sum(s["n"] for s in found.values()),
        "skipped": skipped,
        "recorded": {
            "backbone": backbone.entry,
            "dtype": encoding.dtype,
            "device": encoding.device,
            "batch_size": encoding.batch_size,
            "versions": versions(),
            "commit": commit(),
        },
    }


def _texts(
    backbone: Backbone,
    split: SplitFiles,
    samples: pd.DataFrame,
    captions: pd.DataFrame,
    shards: Path,
    found: dict[str, dict],
) -> tuple[Tensor, pd.DataFrame | None, list]:
    """Encode the texts of a split's task: the classes, the distinct captions, or the images themselves.

    Returns:
        Embeddings `[m, D]`; captions with a new column `text`, their row of the embeddings, or None for classes; and
        the texts for their digest.
    """
    model, tokenizer = backbone.model, backbone.tokenizer
    if split.task == "zeroshot_classification":
        prompts = read_prompts(split.prompts)
        highest = samples["label"].max()
        if highest >= len(prompts.classnames):  # class names can have changed since the shards were encoded
            raise UserError(
                f"{split.prompts / 'classnames.txt'}: lists {len(prompts.classnames)} classes, from 0, but "
                f"{split.name} has a sample of class {highest}; correct one of them"
            )
        texts = class_embeddings(model, tokenizer, prompts.classnames, prompts.templates)
        return texts, None, [prompts.classnames, prompts.templates]
    if split.task == "self_retrieval":
        rows = range(len(samples))
        captions = pd.DataFrame({"image": rows, "text": rows, "caption": samples["key"]})
        return _full_embeddings(shards, found), captions, []
    number, distinct = pd.factorize(captions["caption"])
    captions.insert(1, "text", number)
    return encode_texts(model, tokenizer, list(distinct)), captions, list(distinct)
