"""Encode one shard: reads a tar, writes one folder of features, whole or not at all, memory flat in its images.

shard.json           fingerprint of all that the numbers depend on, counts, samples left out, digest of every file below
000.safetensors ..   some images each: summaries [n, E-1, S], embeddings [n, D], raw_embeddings [n, E-1, D]
samples.parquet      per image: key, label, and what the data set's metadata says (difficulty, sources, ...)
captions.parquet     per caption: image (row of samples), caption
reference.safetensors, under autocast only: float32 embeddings [m, D] of the first images
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
from tgems.data.tar_index import Entry, index_shard
from tgems.data.webdataset import SplitFiles
from tgems.devices import autocast, require_device
from tgems.errors import UserError
from tgems.features.cache import SCHEMA_VERSION
from tgems.features.encode import EncodedImages, encode_images
from tgems.features.images import Batch, image_batches
from tgems.import_closure import code_digest, import_closure
from tgems.provenance import commit, digest_file, read_json, versions, whole_folder, write_json

logger = logging.getLogger(__name__)
METADATA = ("sources", "difficulty", "n_digits", "layout")
ROWS_A_FILE = 1024
REFERENCE_IMAGES = 1000


@dataclass(frozen=True)
class Encoding:
    """How images are encoded.

    Attributes:
        batch_size: Number of images per forward pass.
        dtype: Storage type of summaries and raw embeddings, `float32` or `float16`.
        precision: `float32`, or the type of autocast: `bfloat16` or `float16`.
        device: torch device.
        workers: Processes that decode images; 0 decodes in this one.
        on_bad_sample: `fail`, or `skip`: leave out, log and count.
        code: Digest of the code that encodes; a change encodes anew.
        grids: Grids of means in summaries, ascending (`tgems.backbones.towers.Tower.summarise`).
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
            kept: Attributes that change what is encoded.
            features: The section of the configuration, which also says what the job may use.
        """
        machine = {key: features[key] for key in ("batch_size", "workers", "device")}
        module = Path(__file__)
        return cls(**kept, **machine, code=code_digest([module, *import_closure(module)]))

    def fingerprint(self, backbone: Backbone, shard: str) -> dict:
        """Return all that a shard's features depend on; `shard` is the digest of the tar."""
        own = {k: v for k, v in asdict(self).items() if k in ("dtype", "precision", "on_bad_sample", "code")}
        images = {"weights": backbone.weights_digest, "preprocess": backbone.preprocess_digest, "shard": shard}
        kept = {"blocks": list(backbone.blocks), "grids": list(self.grids)}
        return own | images | kept | {"schema_version": SCHEMA_VERSION}


def use_device(backbone: Backbone, encoding: Encoding) -> None:
    """Move a backbone to the device.

    Raises:
        UserError: There is no such device.
    """
    require_device("features.device", encoding.device)
    backbone.model.to(encoding.device)


def ensure_shard(
    backbone: Backbone, split: SplitFiles, path: Path, out: Path, encoding: Encoding, reference: int
) -> dict:
    """Encode a shard unless its folder is whole and was made from the same things.

    Args:
        backbone: Frozen, on the device.
        split: What the shard belongs to.
        path: The tar.
        out: Folder; appears whole or not at all.
        encoding: How.
        reference: Under autocast, images to encode in float32 too.

    Returns:
        What `shard.json` says.

    Raises:
        ShardError: The tar is damaged or empty.
        UserError: A sample cannot be used and `on_bad_sample` is `fail`; no sample is left; a value is not finite.
    """
    wanted = encoding.fingerprint(backbone, split.digest(path))
    if (out / "shard.json").is_file():
        found = read_json(out / "shard.json")
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
    entries = index_shard(path, split.one_caption)
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
                used += [entries[place] for place in batch.places.tolist()]
            progress.update(len(batch.places) + len(batch.broken))
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
    for place, reason in batch.broken:
        line = f"{path}: sample {entries[place].key!r} {reason}"
        if on_bad_sample == "fail":
            raise UserError(f"{line}; repair the shard, or set on_bad_sample: skip")
        logger.warning("%s; left out", line)
        skipped.append({"key": entries[place].key, "reason": reason})


@torch.no_grad()
def _full_depth(backbone: Backbone, images: Tensor) -> Tensor:
    return F.normalize(backbone.model.visual(images), dim=-1).float().cpu()


def _write_samples(folder: Path, used: list[Entry]) -> None:
    rows = [{"key": e.key, "label": e.label} | {k: v for k, v in e.metadata.items() if k in METADATA} for e in used]
    for row in [row for row in rows if "sources" in row]:
        named = row["sources"] if isinstance(row["sources"], list) else [row["sources"]]
        row["sources"] = [str(name) for name in named]
    pd.DataFrame(rows).astype({"label": "Int64"}).to_parquet(folder / "samples.parquet")
    captions = [(image, caption) for image, e in enumerate(used) for caption in e.captions]
    pd.DataFrame(captions, columns=["image", "caption"]).to_parquet(folder / "captions.parquet")


class _Writer:
    """Collects batches and writes them, `ROWS_A_FILE` or a little more a file."""

    def __init__(self, path: Path, folder: Path, encoding: Encoding):
        self.path, self.folder, self.dtype = path, folder, getattr(torch, encoding.dtype)
        self.parts: list[dict[str, Tensor]] = []
        self.rows: list[int] = []

    def add(self, encoded: EncodedImages) -> None:
        """Take a batch."""
        part = {"summaries": encoded.summaries.to(self.dtype), "embeddings": encoded.embeddings.float()}
        if encoded.raw_embeddings is not None:
            part["raw_embeddings"] = encoded.raw_embeddings[:, :-1].to(self.dtype)
        self.parts.append({name: value.cpu() for name, value in part.items()})
        if sum(len(p["embeddings"]) for p in self.parts) >= ROWS_A_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what has come."""
        if not self.parts:
            return
        tensors = {name: torch.cat([p[name] for p in self.parts]).contiguous() for name in self.parts[0]}
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                raise UserError(f"{self.path}: {name} holds values that are not finite in {value.dtype}; use float32")
        save_file(tensors, self.folder / f"{len(self.rows):03}.safetensors")
        self.rows.append(len(tensors["embeddings"]))
        self.parts = []
