"""Encode images into a Parquet file that can be searched. Reads images and tars; writes one whole file, resumable.

Columns: image (path, or `tar::key`), exit_block, rate, embedding, and the origin of the embedding: backbone, tgem
(digests), policy, calibration, max_rate, hold_rate, model (folder or hub id).
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout

from tgems.errors import UserError, reading
from tgems.outputs import whole_file, write_json, writing
from tgems.provenance import digest_json, digest_tensors, read_json
from tgems.runtime.folder import tensors_of
from tgems.runtime.holding import held_target
from tgems.runtime.image_files import ImageFile, decoded_batches
from tgems.runtime.model import EarlyExitCLIP

pc: Any = pyarrow.compute  # its functions are made at run time, so that type checkers do not know them
PART = 1024
ORIGIN = ("backbone", "tgem", "policy", "calibration", "max_rate", "hold_rate")
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("exit_block", pa.int64()),
        ("rate", pa.float64()),
        ("embedding", pa.list_(pa.float32())),
    ]
)
STATE = b"images"  # key of a part's metadata: digest of names, sizes and times of change of its images
INDEX = pa.schema(
    [
        *(("image", pa.string()), ("exit_block", pa.int64()), ("embedding", pa.list_(pa.float32()))),
        *((name, pa.string()) for name in ("model", *ORIGIN)),
    ]
)


@dataclass(frozen=True)
class Done:
    """Result of `encode_images`: number of images, their mean rate, and name and reason of those left out."""

    images: int
    rate: float
    left_out: list[tuple[str, str]]


@dataclass(frozen=True)
class _Encoder:
    """Encodes the images of a part. An image that cannot be read is an error, or is left out and reported."""

    model: EarlyExitCLIP
    batch_size: int
    workers: int
    skip_bad: bool
    advance: Callable[[int], None]
    left_out: dict[str, str] = field(default_factory=dict)

    def replay(self, kept: pa.Table, images: Sequence[ImageFile]) -> None:
        """Count images that an earlier run has encoded as part of the stream whose rate is held, batch by batch."""
        if self.model.held is not None:
            rates = dict(zip(kept["image"].to_pylist(), kept["rate"].to_pylist(), strict=True))
            for start in range(0, len(images), self.batch_size):
                batch = images[start : start + self.batch_size]
                self.model.observe(np.array([rates[image.name] for image in batch if image.name in rates]))

    def rows(self, images: Sequence[ImageFile]) -> list[dict]:
        """Encode images as one stream, and return a row for each that can be read."""
        model = self.model
        rates, blocks = model.rates, model.early_exit.costs.blocks
        rows, places = [], deque()
        for encoded in model.encode_stream(self._pixels(images, places), self.batch_size):
            exits, embeddings = encoded.exits.tolist(), encoded.embeddings.cpu().numpy()
            rows += [
                {"image": images[p].name, "exit_block": blocks[e], "rate": rates[e], "embedding": z}
                for p, e, z in zip(places.popleft(), exits, embeddings, strict=True)
            ]
            self.advance(len(exits))
        return rows

    def _pixels(self, images: Sequence[ImageFile], places: deque[list[int]]) -> Iterator[torch.Tensor]:
        """Yield batches of images that can be read, and append their places."""
        device = self.model.logit_scale.device
        for batch in decoded_batches(images, self.model.preprocess, self.batch_size, self.workers, self.skip_bad):
            self.left_out.update(batch.bad)
            self.advance(len(batch.bad))
            if batch.images:
                places.append(batch.places)
                yield torch.stack(batch.images).to(device)


def encode_images(
    model: EarlyExitCLIP,
    name: str,
    images: Sequence[ImageFile],
    out: Path,
    batch_size: int = 64,
    workers: int = 0,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> Done:
    """Encode images into a Parquet file, in their order.

    Parts of about a thousand images are kept in `{out}.parts` until the file is whole. A run with the same model and
    the same image names resumes from them: it encodes missing images, images that could not be read before, and every
    part in which an image has another size or time of modification than before. Images wait for each other within a
    part only (`EarlyExitCLIP.encode_stream`), so that a resumed run writes the same file as one without interruption.
    If the model holds a rate, all images form one stream in their order, encoded batch by batch, and each call starts a
    new stream; a resumed run first counts the images that have been encoded.

    Args:
        model: T-GEM, on its device.
        name: Its folder or hub id, recorded for searching.
        images: Images, as `find_images` returns them.
        out: Parquet file.
        batch_size: Number of images per forward pass.
        workers: Processes that decode.
        skip_bad: Whether to leave out images that cannot be read.
        advance: Called with the number of further images that are done.

    Raises:
        UserError: The policy looks at texts; an image cannot be read; none can; another process writes the file; or
            parts of another run, or a file that is no index, are in the way.
    """
    if model.early_exit.policy.needs_bank:
        raise UserError(
            f"{name}: policy {model.early_exit.policy.name!r} looks at the texts before an image is encoded, so that "
            "no index can be built by it; export an image-guided policy, such as 'tgem'"
        )
    if model.held is not None:
        model.hold_rate(held_target(model.held))  # the stream begins here
    if os.path.isdir(out):
        raise UserError(f"{out}: a folder; name a Parquet file to write")
    if os.path.isfile(out) and not _is_index(out):
        raise UserError(f"{out}: is not an index of `tgems encode`, and would be lost; choose another --out")
    origin, parts = origin_of(model), out.with_name(f"{out.name}.parts")
    wanted = {"origin": origin, "images": digest_json([image.name for image in images])}
    encoder = _Encoder(model, batch_size, workers, skip_bad, advance)
    with _alone(out, parts):
        if os.path.isfile(parts / "run.json") and read_json(parts / "run.json") != wanted:
            raise UserError(
                f"{parts}: holds parts of another model or of other images; delete it, or choose another --out"
            )
        try:
            write_json(parts / "run.json", wanted)
            for start in range(0, len(images), PART):
                _complete(parts / f"{start // PART:06}.parquet", images[start : start + PART], encoder)
        finally:
            if not any(parts.glob("*.parquet")):  # there are no parts to resume from
                shutil.rmtree(parts, ignore_errors=True)
        return _join(parts, out, origin | {"model": name}, list(encoder.left_out.items()))


def _is_index(path: Path) -> bool:
    """Return whether a file is an index, which may be written anew."""
    try:
        return set(SCHEMA.names) <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False


@contextmanager
def _alone(out: Path, parts: Path) -> Iterator[None]:
    """Hold a lock while an index is written.

    Raises:
        UserError: Another process holds it.
    """
    with writing(out, parts):
        parts.mkdir(parents=True, exist_ok=True)
        lock = FileLock(parts / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{out}: another process is writing it; wait until that one has ended, or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _complete(part: Path, images: Sequence[ImageFile], encoder: _Encoder) -> None:
    """Write a part, or add to it what is missing, unless one of its images has changed since it was written."""
    state = digest_json([image.state() for image in images])
    kept = SCHEMA.empty_table()
    if os.path.isfile(part):
        with reading(part, "delete it and run again", pa.ArrowException):
            table = pq.ParquetFile(part).read()
        if (table.schema.metadata or {}).get(STATE) == state.encode():
            kept = table
    names = set(kept["image"].to_pylist())
    missing = [image for image in images if image.name not in names]
    encoder.replay(kept, images)
    encoder.advance(len(images) - len(missing))
    if not missing:
        return
    rows = {row["image"]: row for row in [*kept.to_pylist(), *encoder.rows(missing)]}
    ordered = [rows[image.name] for image in images if image.name in rows]
    with whole_file(part) as partial:
        pq.write_table(pa.Table.from_pylist(ordered, SCHEMA.with_metadata({STATE: state})), partial)


def _join(parts: Path, out: Path, columns: dict[str, str], left_out: list[tuple[str, str]]) -> Done:
    """Make one whole file of all parts, and delete them."""
    with reading(parts, "delete it and run again", pa.ArrowException):
        table = pa.concat_tables([pq.ParquetFile(p).read() for p in sorted(parts.glob("*.parquet"))])
    table = table.replace_schema_metadata(None)
    if not len(table):
        shutil.rmtree(parts)
        raise UserError(f"{left_out[0][0]}: {left_out[0][1]}; none of {len(left_out)} images can be read, fix them")
    for column, value in columns.items():
        table = table.append_column(column, pa.array([value] * len(table), pa.string()))
    with whole_file(out) as partial:
        pq.write_table(table, partial)
    shutil.rmtree(parts)
    return Done(len(table), pc.mean(table["rate"]).as_py(), left_out)


def origin_of(model: EarlyExitCLIP) -> dict[str, str]:
    """Return the origin of an embedding; embeddings of different origin are not comparable."""
    early = model.early_exit
    return {
        "backbone": model.backbone.weights_digest,
        "tgem": digest_tensors(tensors_of(early)),
        "policy": early.policy.name,
        "calibration": model.calibration,
        "max_rate": "none" if model.max_rate is None else f"{model.max_rate:g}",
        "hold_rate": "none" if model.held is None else f"{model.held.target:g}",
    }
