"""Encode images into a Parquet file, and search it. Reads images and tars; writes one whole file, resumable.

Columns: image (path, or `tar::key`), exit_block, rate, embedding, and what made it: backbone, tgem (digests), policy,
calibration, model (folder or hub id).
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from tgems.errors import UserError, first_line, reading
from tgems.provenance import digest_json, digest_tensors, read_json, whole_file, write_json
from tgems.runtime.folder import tensors_of
from tgems.runtime.image_files import ImageFiles, Named
from tgems.runtime.model import EarlyExitCLIP

pc: Any = pyarrow.compute  # its functions are made at run time, so that type checkers do not know them
PART = 1024
ORIGIN = ("backbone", "tgem", "policy", "calibration", "max_rate")
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("exit_block", pa.int64()),
        ("rate", pa.float64()),
        ("embedding", pa.list_(pa.float32())),
        ("reason", pa.string()),
    ]
)
INDEX = pa.schema(
    [
        *(("image", pa.string()), ("exit_block", pa.int64()), ("embedding", pa.list_(pa.float32()))),
        *((name, pa.string()) for name in ("model", *ORIGIN)),
    ]
)


@dataclass(frozen=True)
class Done:
    """What `encode_images` did: images written, their mean rate, and name and reason of those left out."""

    images: int
    rate: float
    left_out: list[tuple[str, str]]


def _as_is(batch: list) -> list:
    """Return a batch as it is; a named function, so that workers can be started by any method."""
    return batch


def encode_images(
    model: EarlyExitCLIP,
    name: str,
    images: Sequence[Named],
    out: Path,
    batch_size: int = 64,
    workers: int = 0,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> Done:
    """Encode images into a Parquet file, in their order.

    Parts of about a thousand images are kept in `{out}.parts` until the file is whole; a run with the same model and
    images, by name, goes on after the last part.

    Args:
        model: T-GEM, on its device.
        name: Its folder or hub id, recorded for searching.
        images: Of `find_images`.
        out: Parquet file.
        batch_size: Number of images per forward pass.
        workers: Processes that decode.
        skip_bad: Whether to leave out what cannot be read.
        advance: Called with the number of further images that are done.

    Raises:
        UserError: The policy looks at texts; an image cannot be read; none can; or parts of another run are in the way.
    """
    if model.early_exit.policy.needs_bank:
        raise UserError(
            f"{name}: policy {model.early_exit.policy.name!r} looks at the texts before an image is encoded, so that "
            "no index can be built by it; export an image-guided policy, such as 'tgem'"
        )
    if os.path.isdir(out):
        raise UserError(f"{out}: a folder; name a Parquet file to write")
    origin, parts = origin_of(model), out.with_name(f"{out.name}.parts")
    wanted = {"origin": origin, "images": digest_json([n for n, _ in images])}
    if os.path.isfile(parts / "run.json") and read_json(parts / "run.json") != wanted:
        raise UserError(f"{parts}: holds parts of another model or of other images; delete it, or choose another --out")
    write_json(parts / "run.json", wanted)
    try:
        for start in range(0, len(images), PART):
            batch, part = images[start : start + PART], parts / f"{start // PART:06}.parquet"
            if os.path.isfile(part):
                advance(len(batch))
                continue
            with whole_file(part) as partial:
                pq.write_table(_encode_part(model, batch, batch_size, workers, skip_bad, advance), partial)
    finally:
        if not any(parts.glob("*.parquet")):  # there is nothing to go on from
            shutil.rmtree(parts, ignore_errors=True)
    return _join(parts, out, origin | {"model": name})


def _join(parts: Path, out: Path, columns: dict[str, str]) -> Done:
    """Make one whole file of all parts, and delete them."""
    with reading(parts, "delete it and run again", pa.ArrowException):
        table = pa.concat_tables([pq.read_table(p) for p in sorted(parts.glob("*.parquet"))])
    bad = pc.is_valid(table["reason"])
    left_out = [(r["image"], r["reason"]) for r in table.filter(bad).select(["image", "reason"]).to_pylist()]
    table = table.filter(pc.invert(bad)).drop_columns(["reason"])
    if not len(table):
        raise UserError(f"{left_out[0][0]}: {left_out[0][1]}; none of {len(left_out)} images can be read, fix them")
    for column, value in columns.items():
        table = table.append_column(column, pa.array([value] * len(table), pa.string()))
    with whole_file(out) as partial:
        pq.write_table(table, partial)
    shutil.rmtree(parts)
    return Done(len(table), pc.mean(table["rate"]).as_py(), left_out)


def _encode_part(
    model: EarlyExitCLIP,
    images: Sequence[Named],
    batch_size: int,
    workers: int,
    skip_bad: bool,
    advance: Callable[[int], None],
) -> pa.Table:
    device, rates, blocks = model.logit_scale.device, model.rates, model.early_exit.costs.blocks
    dataset = ImageFiles(images, model.preprocess)
    rows = []
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=_as_is):
        bad = [(images[place][0], reason) for place, reason in batch if isinstance(reason, str)]
        if bad and not skip_bad:
            raise UserError(f"{bad[0][0]}: {bad[0][1]}; fix it, or leave it out with --skip-bad")
        rows += [{"image": name, "reason": reason} for name, reason in bad]
        good = [(place, image) for place, image in batch if not isinstance(image, str)]
        if good:
            encoded = model.encode_image(torch.stack([image for _, image in good]).to(device), return_exits=True)
            exits, embeddings = encoded.exits.tolist(), encoded.embeddings.cpu().numpy()
            rows += [
                {"image": images[p][0], "exit_block": blocks[e], "rate": rates[e], "embedding": z}
                for (p, _), e, z in zip(good, exits, embeddings, strict=True)
            ]
        advance(len(batch))
    return pa.Table.from_pylist(rows, SCHEMA)


def origin_of(model: EarlyExitCLIP) -> dict[str, str]:
    """Return what made an embedding; embeddings of different origin are not comparable."""
    early = model.early_exit
    return {
        "backbone": model.backbone.weights_digest,
        "tgem": digest_tensors(tensors_of(early)),
        "policy": early.policy.name,
        "calibration": model.calibration,
        "max_rate": "none" if model.max_rate is None else f"{model.max_rate:g}",
    }


def search_index(
    text: str,
    index: Sequence[Path],
    model: str | None = None,
    k: int = 10,
    backbone: str | None = None,
    tokenizer: str | None = None,
    trust_policy_file: Path | None = None,
) -> tuple[list[tuple[float, str, int]], list[str]]:
    """Find the best images of an index for a text.

    Args:
        text: What to look for.
        index: Parquet files of `encode_images`.
        model: Folder or hub id; None for the one that the index names.
        k: Results.
        backbone: Where to read it from instead of the T-GEM's own reference.
        tokenizer: See `tgems.runtime.folder.load`.
        trust_policy_file: See `tgems.runtime.folder.load`.

    Returns:
        (score, image, exit block) best first; and warnings where embeddings are of mixed or other origin.

    Raises:
        UserError: A file is missing, empty or no index, or embeddings differ in length.
    """
    table = pa.concat_tables([_read_index(path) for path in index])
    warnings = []
    for column in ORIGIN:
        values = sorted(table[column].unique().to_pylist())
        if len(values) > 1:
            short = ", ".join(v[:12] for v in values)
            warnings.append(f"the index mixes {len(values)} values of {column} ({short}): scores are not comparable")
    model = model or table["model"][0].as_py()
    loaded = EarlyExitCLIP.from_pretrained(
        model, backbone=backbone, tokenizer=tokenizer, trust_policy_file=trust_policy_file
    )
    dim = loaded.early_exit.costs.embed_dim
    if pc.list_value_length(table["embedding"]).unique().to_pylist() != [dim]:
        raise UserError(
            f"the index holds embeddings that are not of {dim} numbers, as the text's; encode all images anew"
        )
    if table["backbone"].unique().to_pylist() != [loaded.backbone.weights_digest]:
        warnings.append(f"the text is encoded by {loaded.backbone.weights_digest[:12]}, not by the index's backbone")
    query = loaded.encode_text(loaded.tokenizer([text]), normalize=True)[0]
    embeddings = torch.from_dlpack(pc.list_flatten(table["embedding"]).combine_chunks())
    scores = embeddings.view(-1, dim) @ query
    best = scores.topk(min(k, len(scores)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(s, table["image"][i].as_py(), table["exit_block"][i].as_py()) for s, i in found], warnings


def _read_index(path: Path) -> pa.Table:
    way_out = f"make it with `tgems encode IMAGES --model FOLDER --out {path.with_suffix('.parquet')}`"
    with reading(path, way_out):
        if not path.is_file():
            raise UserError(f"{path}: {'a folder, not a file' if path.is_dir() else 'missing'}; {way_out}")
    try:
        with reading(path, way_out):
            table = pq.ParquetFile(path).read()  # `pq.read_table` imports pandas
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({first_line(error)}); {way_out}") from error
    if missing := [name for name in INDEX.names if name not in table.column_names]:
        raise UserError(f"{path}: not an index of `tgems encode`: it has no column {missing[0]!r}")
    try:
        table = table.select(INDEX.names).cast(INDEX)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not an index of `tgems encode`: {first_line(error)}") from error
    numbers = pc.list_flatten(table["embedding"])
    empty = [name for name in INDEX.names if table[name].null_count]
    if numbers.null_count:
        empty.append("embedding")
    what = f"column {empty[0]!r} has empty cells" if empty else "" if len(table) else "it is empty"
    if not what and not pc.all(pc.is_finite(numbers)).as_py():
        what = "column 'embedding' holds numbers that are not finite"
    if what:
        raise UserError(f"{path}: not an index of `tgems encode`: {what}")
    return table
