"""Encode images into a Parquet file, and search it. Reads images and tars; writes one whole file, resumable.

Columns: image (path, or `tar::key`), exit_block, rate, embedding, and what made it: backbone, tgem (digests), policy,
calibration, model (folder or hub id).
"""

import glob
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from tgems.data.tarindex import IMAGE_SUFFIXES, index_shard, read_image
from tgems.errors import UserError
from tgems.provenance import digest_json, digest_tensors, read_json, whole_file, write_json
from tgems.runtime.model import EarlyExitCLIP

PART = 1024
ORIGIN = ("backbone", "tgem", "policy", "calibration", "max_rate")


@dataclass(frozen=True)
class Done:
    """What `encode_images` did: images written, their mean rate, and name and reason of those left out."""

    images: int
    rate: float
    left_out: list[tuple[str, str]]


class _Images(Dataset):
    """Images by place; what cannot be read is a reason."""

    def __init__(self, names: Sequence[tuple[str, object]], preprocess):
        self.names, self.preprocess = names, preprocess

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int):
        name, entry = self.names[place]
        try:
            data = Path(name).read_bytes() if entry is None else read_image(Path(name.partition("::")[0]), entry)
            return place, self.preprocess(Image.open(io.BytesIO(data)).convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return place, f"cannot be read ({error})"


def find_images(words: Sequence[str]) -> list[tuple[str, object]]:
    """Images that files, folders, globs and tars name, in order, each once: name, and place in a tar or None.

    Raises:
        UserError: A word names nothing, or a file of unknown kind.
    """
    found: dict[str, object] = {}
    for word in words:
        paths = [Path(p) for p in sorted(glob.glob(word, recursive=True))]
        if not paths:
            raise UserError(f"{word}: there is no such file, folder or match")
        for path in paths:
            found |= dict(_images_of(path))
    if not found:
        raise UserError(f"{' '.join(words)}: no image ({', '.join(IMAGE_SUFFIXES)}) and no tar with images")
    return list(found.items())


def _images_of(path: Path) -> Iterator[tuple[str, object]]:
    suffix = path.suffix.lower().removeprefix(".")
    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            if inner.is_file() and inner.suffix.lower().removeprefix(".") in (*IMAGE_SUFFIXES, "tar"):
                yield from _images_of(inner)
    elif suffix == "tar":
        for entry in index_shard(path):
            yield f"{path}::{entry.key}", entry
    elif suffix in IMAGE_SUFFIXES:
        yield str(path), None
    else:
        raise UserError(f"{path}: not an image ({', '.join(IMAGE_SUFFIXES)}), folder or tar")


def encode_images(
    model: EarlyExitCLIP, name: str, words: Sequence[str], out: Path, batch_size: int, workers: int, skip_bad: bool
) -> Done:
    """Encode all images that `words` name.

    Parts of about a thousand images are kept in `{out}.parts` until the file is whole; a run with the same model and
    images goes on after the last part.

    Args:
        model: T-GEM, on its device.
        name: Its folder or hub id, recorded for searching.
        words: Files, folders, globs, tars.
        out: Parquet file.
        batch_size: Images a forward pass.
        workers: Processes that decode.
        skip_bad: Whether to leave out what cannot be read.

    Raises:
        UserError: Nothing to encode; an image cannot be read; parts of another model or other images are in the way.
    """
    images = find_images(words)
    origin = origin_of(model)
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    wanted = {"origin": origin, "images": digest_json([n for n, _ in images]), "skip_bad": skip_bad}
    if (parts / "run.json").is_file() and read_json(parts / "run.json") != wanted:
        raise UserError(f"{parts}: holds parts of another model or of other images; delete it, or choose another --out")
    write_json(parts / "run.json", wanted)
    starts = range(0, len(images), PART)
    with tqdm(total=len(images), unit="image", mininterval=1) as progress:
        for start in starts:
            batch = images[start : start + PART]
            part = parts / f"{start // PART:06}.parquet"
            if not part.is_file():
                frame = _encode_part(model, batch, batch_size, workers, skip_bad).assign(**origin, model=name)
                with whole_file(part) as partial:
                    frame.to_parquet(partial)
            progress.update(len(batch))
    table = pa.concat_tables([pq.read_table(p) for p in sorted(parts.glob("*.parquet"))])
    frame = table.select(["image", "exit_block", "rate", "reason"]).to_pandas()
    bad = frame[frame["reason"].notna()]
    good = pa.compute.is_null(table["reason"])
    with whole_file(out) as partial:
        pq.write_table(table.filter(good).drop_columns(["reason"]), partial)
    for file in parts.iterdir():
        file.unlink()
    parts.rmdir()
    left_out = list(bad[["image", "reason"]].itertuples(index=False, name=None))
    return Done(len(frame) - len(bad), float(frame["rate"].mean()), left_out)


def _encode_part(model: EarlyExitCLIP, images, batch_size: int, workers: int, skip_bad: bool) -> pd.DataFrame:
    device = model.logit_scale.device
    loader = DataLoader(
        _Images(images, model.preprocess), batch_size=batch_size, num_workers=workers, collate_fn=lambda batch: batch
    )
    rates, blocks, rows = model.rates, model.early_exit.costs.blocks, []
    for batch in loader:
        good = [(place, image) for place, image in batch if not isinstance(image, str)]
        for place, reason in ((p, r) for p, r in batch if isinstance(r, str)):
            if not skip_bad:
                raise UserError(f"{images[place][0]}: {reason}; mend it, or leave it out with --skip-bad")
            rows.append({"image": images[place][0], "reason": reason})
        if good:
            encoded = model.encode_image(torch.stack([image for _, image in good]).to(device), return_exits=True)
            exits, embeddings = encoded.exits.tolist(), encoded.embeddings.cpu().numpy()
            rows += [
                {"image": images[p][0], "exit_block": blocks[e], "rate": rates[e], "embedding": z, "reason": None}
                for (p, _), e, z in zip(good, exits, embeddings, strict=True)
            ]
    columns = ["image", "exit_block", "rate", "embedding", "reason"]
    types = {"exit_block": "Int64", "rate": "float64", "reason": "string"}
    return pd.DataFrame(rows, columns=columns).astype(types)


def origin_of(model: EarlyExitCLIP) -> dict[str, str]:
    """What made an embedding: embeddings of different origin are not comparable."""
    early = model.early_exit
    tensors = [(f"heads.{k}", v) for k, v in early.heads.state_dict().items()]
    tensors += [] if early.gates is None else [(f"gates.{k}", v) for k, v in early.gates.state_dict().items()]
    return {
        "backbone": model.backbone.weights_digest,
        "tgem": digest_tensors(tensors),
        "policy": early.policy,
        "calibration": model.calibration,
        "max_rate": "none" if model.max_rate is None else f"{model.max_rate:g}",
    }


def search_index(
    text: str, index: Sequence[Path], model: str | None, k: int
) -> tuple[list[tuple[float, str, int]], list[str]]:
    """Best images of an index for a text.

    Args:
        text: What to look for.
        index: Parquet files of `encode_images`.
        model: Folder or hub id; None for the one that the index names.
        k: Results.

    Returns:
        (score, image, exit block) best first; and warnings where embeddings are of mixed or other origin.

    Raises:
        UserError: A file is missing, empty or no index.
    """
    from tgems.runtime.folder import SharedEarlyExitCLIP

    frame = pd.concat([_read_index(path) for path in index], ignore_index=True)
    warnings = []
    for column in ORIGIN:
        values = sorted(frame[column].unique())
        if len(values) > 1:
            short = ", ".join(v[:12] for v in values)
            warnings.append(f"the index mixes {len(values)} values of {column} ({short}): scores are not comparable")
    loaded = SharedEarlyExitCLIP.from_pretrained(model or frame["model"].iloc[0])
    if not frame["backbone"].eq(loaded.backbone.weights_digest).all():
        warnings.append(f"the text is encoded by {loaded.backbone.weights_digest[:12]}, not by the index's backbone")
    query = loaded.encode_text(loaded.tokenizer([text]), normalize=True)[0]
    scores = torch.tensor(frame["embedding"].tolist()) @ query
    best = scores.topk(min(k, len(scores)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(s, frame["image"][i], int(frame["exit_block"][i])) for s, i in found], warnings


def _read_index(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: missing; make it with `tgems encode IMAGES --model FOLDER --out {path}`")
    try:
        frame = pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None
    missing = {"image", "embedding", "exit_block", "model", *ORIGIN} - set(frame.columns)
    if missing or frame.empty:
        what = "it is empty" if not missing else f"it has no column {sorted(missing)[0]!r}"
        raise UserError(f"{path}: no index of `tgems encode`: {what}")
    return frame
