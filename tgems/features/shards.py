"""Encode one shard: read a tar and write a folder of features, which appears only once it is complete.

shard.json             fingerprint of all that the features depend on, counts, skipped samples, digests of all files
000.safetensors, ...   for some images each: summaries [n, E-1, S], embeddings [n, D], raw_embeddings [n, E-1, D]
samples.parquet        per image: key, label, and metadata of the data set (difficulty, sources, ...)
captions.parquet       per caption: image (row of samples), caption
reference.safetensors  under autocast: float32 embeddings [m, D] of the first images

The memory that this takes does not depend on the number of images.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tgems.backbones.load import Backbone
from tgems.data.tar_index import Entry
from tgems.data.webdataset import SplitFiles
from tgems.devices import autocast, require_device
from tgems.errors import UserError
from tgems.features.cache import SCHEMA_VERSION
from tgems.features.encode import EncodedImages, encode_images
from tgems.features.images import Batch, image_batches
from tgems.features.manifest import ShardRecord, checked
from tgems.import_closure import code_digest, import_closure
from tgems.outputs import whole_folder, write_json
from tgems.provenance import commit, digest_file, read_json, versions

logger = logging.getLogger(__name__)
ROWS_PER_FILE = 1024
REFERENCE_IMAGES = 1000


@dataclass(frozen=True)
class Encoding:
    """How images are encoded.

    Attributes:
        batch_size: Number of images per forward pass.
        dtype: Storage type of summaries and raw embeddings, `float32` or `float16`.
        precision: `float32`, or the type of autocast, `bfloat16` or `float16`.
        device: Device of torch.
        workers: Number of processes that decode images; with 0 the calling process decodes them.
        on_bad_sample: `fail`, or `skip` to leave out, log and list the sample.
        code: Digest of the code that encodes; if it changes, shards are encoded again.
        grids: Sizes of the grids of means in summaries, ascending; see `tgems.backbones.towers.Tower.summarise`.
    """

    batch_size: int = 256
    dtype: str = "float32"
    precision: str = "float32"
    device: str = "cpu"
    workers: int = 0
    on_bad_sample: str = "fail"
    code: str = ""
    grids: Sequence[int] = (2,)

    @classmethod
    def of_job(cls, kept: dict, features: dict) -> "Encoding":
        """Return the encoding of a job of the workflow, with the digest of this module and all that it imports.

        Args:
            kept: Attributes that change the features.
            features: Section `features` of the configuration, of which the attributes that do not are read.
        """
        machine = {key: features[key] for key in ("batch_size", "workers", "device")}
        module = Path(__file__)
        return cls(**kept, **machine, code=code_digest([module, *import_closure(module)]))

    def fingerprint(self, backbone: Backbone, shard: str, task: str) -> dict:
        """Return all that the features of a shard depend on; `shard` is the digest of its tar."""
        own = {k: v for k, v in asdict(self).items() if k in ("dtype", "precision", "on_bad_sample", "code")}
        images = {"weights": backbone.weights_digest, "preprocess": backbone.preprocess_digest, "shard": shard}
        kept = {"blocks": list(backbone.blocks), "grids": list(self.grids), "task": task}
        return own | images | kept | {"schema_version": SCHEMA_VERSION}


def use_device(backbone: Backbone, encoding: Encoding) -> None:
    """Move a backbone to the device of an encoding.

    Raises:
        UserError: The device is not available.
    """
    require_device("features.device", encoding.device)
    backbone.model.to(encoding.device)


def ensure_shard(
    backbone: Backbone, split: SplitFiles, path: Path, out: Path, encoding: Encoding, reference: int
) -> dict:
    """Encode a shard, unless its features are complete and were made from the same inputs by the same code.

    Args:
        backbone: Frozen model, on the device of the encoding.
        split: The split that the shard belongs to.
        path: The tar.
        out: Folder of the features, which appears only once it is complete.
        encoding: How images are encoded.
        reference: Under autocast, number of images to encode in float32 as well.

    Returns:
        Content of `shard.json`.

    Raises:
        ShardError: The tar is damaged or empty.
        UserError: A sample cannot be used and `on_bad_sample` is `fail`, no sample can be used, or a value is not
            finite.
    """
    wanted = encoding.fingerprint(backbone, split.digest(path), split.task)
    if (out / "shard.json").is_file():
        found = checked(ShardRecord, out / "shard.json", f"delete the folder {out} and run again")
        if found["fingerprint"] == wanted and all(
            (out / name).is_file() and digest_file(out / name) == d for name, d in found["files"].items()
        ):
            return found
    with whole_folder(out) as partial:
        _encode_shard(backbone, split, path, partial, encoding, reference, wanted)
    return read_json(out / "shard.json")


def _encode_shard(
    backbone: Backbone,
    split: SplitFiles,
    path: Path,
    partial: Path,
    encoding: Encoding,
    reference: int,
    fingerprint: dict,
) -> None:
    entries = split.index(path)
    cuda = encoding.device == "cuda"
    batches = image_batches(path, entries, backbone.preprocess, encoding.batch_size, encoding.workers, cuda)
    used: list[Entry] = []
    skipped: list[dict] = []
    writer = _Writer(path, partial, encoding)
    wanted = reference if encoding.precision != "float32" else 0
    exact: list[Tensor] = []
    with tqdm(total=len(entries), desc=f"{split.name} {path.name}", unit="image", mininterval=2) as progress:
        for batch in batches:
            _check(path, entries, batch, encoding.on_bad_sample, skipped)
            if batch.images is not None:
                images = batch.images.to(encoding.device, non_blocking=True)
                with autocast(encoding.device, encoding.precision):
                    writer.add(encode_images(backbone.tower, images, backbone.blocks, encoding.grids))
                if len(used) < wanted:
                    exact.append(_full_depth(backbone, images[: wanted - len(used)]))
                used += [entries[index] for index in batch.indices.tolist()]
            progress.update(len(batch.indices) + len(batch.broken))
    if not used:
        raise UserError(f"{path}: none of its {len(entries)} samples can be used; see the log")
    writer.flush()
    if wanted:
        save_file({"embeddings": torch.cat(exact)[:wanted]}, partial / "reference.safetensors")
    _write_samples(partial, used)
    files = {p.name: digest_file(p) for p in sorted(partial.iterdir())}
    about = {
        "fingerprint": fingerprint,
        "tar": path.name,
        "n": len(used),
        "rows": writer.rows,
        "skipped": skipped,
        "files": files,
        "bytes": {name: (partial / name).stat().st_size for name in files},
        "recorded": {"device": encoding.device, "versions": versions(), "commit": commit()},
    }
    write_json(partial / "shard.json", about)


def _check(path: Path, entries: list[Entry], batch: Batch, on_bad_sample: str, skipped: list[dict]) -> None:
    for index, reason in batch.broken:
        line = f"{path}: sample {entries[index].key!r} {reason}"
        if on_bad_sample == "fail":
            raise UserError(f"{line}; repair the shard, or set on_bad_sample: skip")
        logger.warning("%s; skipped", line)
        skipped.append({"key": entries[index].key, "reason": reason})


@torch.no_grad()
def _full_depth(backbone: Backbone, images: Tensor) -> Tensor:
    return F.normalize(backbone.tower.encode(images), dim=-1).float().cpu()


def _write_samples(folder: Path, used: list[Entry]) -> None:
    rows = [{"key": e.key, "label": e.label} | e.metadata for e in used]
    pd.DataFrame(rows).astype({"label": "Int64"}).to_parquet(folder / "samples.parquet")
    captions = [(image, caption) for image, e in enumerate(used) for caption in e.captions]
    pd.DataFrame(captions, columns=["image", "caption"]).to_parquet(folder / "captions.parquet")


class _Writer:
    """Collects batches and writes a file as soon as they have `ROWS_PER_FILE` rows."""

    def __init__(self, path: Path, folder: Path, encoding: Encoding):
        self.path, self.folder, self.dtype = path, folder, getattr(torch, encoding.dtype)
        self.parts: list[dict[str, Tensor]] = []
        self.rows: list[int] = []

    def add(self, encoded: EncodedImages) -> None:
        """Add a batch."""
        part = {"summaries": encoded.summaries.to(self.dtype), "embeddings": encoded.embeddings.float()}
        if encoded.raw_embeddings is not None:
            part["raw_embeddings"] = encoded.raw_embeddings[:, :-1].to(self.dtype)
        self.parts.append({name: value.cpu() for name, value in part.items()})
        if sum(len(p["embeddings"]) for p in self.parts) >= ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write the batches that were added since the last file."""
        if not self.parts:
            return
        tensors = {name: torch.cat([p[name] for p in self.parts]).contiguous() for name in self.parts[0]}
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise UserError(f"{self.path}: {name} has values that are not finite in {value.dtype}; use float32")
        save_file(tensors, self.folder / f"{len(self.rows):03}.safetensors")
        self.rows.append(len(tensors["embeddings"]))
        self.parts = []
