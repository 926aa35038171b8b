"""The feature cache: one folder per backbone, data set and split, whose files are checked by digest when read.

manifest.json          schema version, digests of weights, preprocessing, shards, prompts and all files
texts.safetensors      embeddings [m, D] of the class names, or of the distinct captions in order of appearance
samples.parquet        per image: key, label, and metadata of the data set (difficulty, sources, ...)
captions.parquet       for retrieval, per caption: image (row of samples), text (row of texts), caption
reference.safetensors  under autocast, of some images: places [m] (row numbers) and float32 embeddings [m, D]
../{split}.shards/     features of the images, one folder per shard (tgems/features/shards.py)

Summaries that take more memory than the reader allows are memory-mapped and read by rows. Their files are checked by
size, all others by digest.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tgems.costs.exit_layout import grid_of, n_parts
from tgems.errors import UserError
from tgems.features.manifest import Manifest, checked
from tgems.features.row_access import Rows
from tgems.outputs import write_json
from tgems.provenance import digest_file, read_json
from tgems.untrusted import read_safetensors

SCHEMA_VERSION = 4
IN_MEMORY_GB = 8.0
RUN_AGAIN = "delete its folder and run again"
COMPARED = ("schema_version", "weights", "preprocess")


@dataclass(frozen=True)
class FeatureSet:
    """The cached features of one split.

    Attributes:
        summaries: Summaries `[n, E-1, S]` at the exits before the last, read by rows.
        embeddings: Unit embeddings `[n, D]` float32 of the full encoder.
        raw_embeddings: Unit embeddings `[n, E-1, D]` by the frozen pooling and projection at the exits before the last,
            read by rows; None if these accept only the last block's tokens.
        texts: Unit embeddings `[m, D]` float32 of the classes or of the distinct captions.
        samples: One row per image.
        captions: One row per caption, or None for classification.
        manifest: Content of manifest.json.
        streamed: Whether summaries are memory-mapped instead of loaded.
        reference: Under autocast, row numbers `[m]` of some images and their float32 embeddings `[m, D]`.
    """

    summaries: Rows
    embeddings: Tensor
    raw_embeddings: Rows | None
    texts: Tensor
    samples: pd.DataFrame
    captions: pd.DataFrame | None
    manifest: dict
    streamed: bool = False
    reference: tuple[Tensor, Tensor] | None = None

    @property
    def labels(self) -> Tensor:
        """Class numbers `[n]` int64."""
        return torch.from_numpy(self.samples["label"].to_numpy("int64").copy())

    @property
    def sources(self) -> list[list[str]]:
        """Names of the sources that each image was made from; an image without sources is its own source."""
        if "sources" not in self.samples:
            return [[key] for key in self.samples["key"]]
        named = zip(self.samples["sources"], self.samples["key"], strict=True)
        return [
            [str(name) for name in names] if np.size(names) and np.ndim(names) else [f"image {key}"]
            for names, key in named
        ]

    def at_exits(self, blocks: Sequence[int], summary_dim: int) -> "FeatureSet":
        """Return the features of the same split for some of the exits and one of the grids.

        Args:
            blocks: Exits to keep, 1-based; the last is the encoder's depth.
            summary_dim: Length `S` of a summary with the wanted g x g grid, 1 + g^2 parts of the widest exit's `d`.

        Raises:
            UserError: The features do not have one of the exits, or the grid.
        """
        extracted = self.manifest["blocks"]
        if absent := sorted(set(blocks) - set(extracted)):
            raise UserError(f"features were extracted at blocks {extracted}, but not at block {absent[0]}")
        keep = [extracted.index(block) for block in blocks[:-1]]
        widths = [self.manifest["widths"][k] for k in keep]
        grids, wanted = self.manifest["grids"], grid_of(summary_dim // max(widths))
        if wanted and wanted not in grids:
            raise UserError(f"features were extracted with grids {grids}, but not with grid {wanted}")
        start = n_parts(grids[: grids.index(wanted)]) if wanted else 1
        parts = [0, *range(start, start + wanted**2)]
        raw = self.raw_embeddings
        return replace(
            self,
            summaries=self.summaries.columns(keep, n_parts(grids), parts, max(widths)),
            raw_embeddings=None if raw is None else raw.columns(keep, 1, [0], raw.shape[2]),
            manifest=self.manifest | {"blocks": list(blocks), "widths": widths, "grids": [wanted] if wanted else []},
        )

    @property
    def widths(self) -> tuple[int, ...] | None:
        """Unpadded width of a part of a summary, per exit before the last; None if all are equal."""
        widths = tuple(self.manifest["widths"])
        return None if len(set(widths)) == 1 else widths

    def raw_at_all_exits(self) -> Tensor | None:
        """Return embeddings `[n, E, D]` by the frozen pooling and projection at every exit, or None without them."""
        if self.raw_embeddings is None:
            return None
        return torch.cat((self.raw_embeddings[:], self.embeddings[:, None]), 1)

    @property
    def text_embeddings(self) -> Tensor:
        """Embeddings `[m, D]` of all captions in order for retrieval, or of the classes."""
        if self.captions is None:
            return self.texts
        return self.texts[torch.from_numpy(self.captions["text"].to_numpy().copy())]

    @property
    def text_image(self) -> Tensor:
        """Row number of the image of every caption, `[m]` int64.

        Raises:
            ValueError: The split has labels instead of captions.
        """
        if self.captions is None:
            raise ValueError("a classification split has no captions")
        return torch.from_numpy(self.captions["image"].to_numpy().copy())


def seal(folder: Path, manifest: dict) -> None:
    """Complete a cache folder: write its manifest, with the digests of all other files."""
    files = {p.name: digest_file(p) for p in sorted(Path(folder).iterdir()) if p.name != "manifest.json"}
    write_json(Path(folder) / "manifest.json", manifest | {"schema_version": SCHEMA_VERSION, "files": files})


def load_features(folder: Path, like: dict | None = None, in_memory_gb: float = IN_MEMORY_GB) -> FeatureSet:
    """Read the cached features of a split, and check every file against the manifest.

    Args:
        folder: Folder of the split.
        like: Manifest of other features, such as those for training, whose schema version, weights and preprocessing
            must be the same.
        in_memory_gb: Summaries that take more memory than this, as float32, are memory-mapped.

    Raises:
        UserError: A file is missing, truncated or altered, or was made with other weights.
    """
    folder = Path(folder)
    expected = {"schema_version": SCHEMA_VERSION} if like is None else {k: like.get(k) for k in COMPARED}
    manifest = _read_manifest(folder, expected)
    _check_files(folder, folder, manifest["files"])
    return _read(folder, manifest, in_memory_gb)


def load_captions(folder: Path, weights: str) -> tuple[Tensor, pd.DataFrame]:
    """Read the captions of a split without the features of its images.

    Args:
        folder: Folder of the split.
        weights: Digest of the weights of the backbone in use.

    Returns:
        Embeddings of the distinct captions `[m, D]`, and one row per caption with columns `text` (row of the
        embeddings) and `caption`.

    Raises:
        UserError: A file is missing, truncated or altered, or was made with other weights.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, {"schema_version": SCHEMA_VERSION, "weights": weights})
    files = {name: manifest["files"].get(name, "") for name in ("texts.safetensors", "captions.parquet")}
    _check_files(folder, folder, files)
    texts = read_safetensors(folder / "texts.safetensors", RUN_AGAIN)["embeddings"]
    return texts, pd.read_parquet(folder / "captions.parquet")


def _read_manifest(folder: Path, expected: dict) -> dict:
    """Read a manifest, and check that the keys of `expected` have the expected values."""
    if not os.path.isfile(folder / "manifest.json"):
        raise UserError(f"{folder}: no manifest.json, so the cache is incomplete; delete the folder and run again")
    manifest = read_json(folder / "manifest.json")
    for key, wanted in expected.items():
        if manifest.get(key) != wanted:
            raise UserError(
                f"{folder}: cached with {key} {manifest.get(key)!r}, but {wanted!r} is in use; "
                "delete the folder and run again"
            )
    return checked(Manifest, folder / "manifest.json", f"delete the folder {folder} and run again")


def _check_files(folder: Path, cache: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        if not os.path.isfile(folder / name) or digest_file(folder / name) != digest:
            raise _damaged(folder / name, cache)


def _damaged(file: Path, cache: Path) -> UserError:
    return UserError(f"{file}: truncated, altered or missing; delete the folder {cache} and run again")


def _read(folder: Path, manifest: dict, in_memory_gb: float) -> FeatureSet:
    shards = folder.with_name(f"{folder.name}.shards")
    numbers = [f"{i:03}.safetensors" for i in range(max(len(part["rows"]) for part in manifest["parts"].values()))]
    streamed = _summary_bytes(shards, folder, manifest) > in_memory_gb * 2**30
    parts: dict[str, list[Tensor]] = {}
    for name, part in manifest["parts"].items():
        for file in numbers[: len(part["rows"])]:
            path = shards / name / file
            if not streamed:
                _check_files(path.parent, folder, {file: part["files"][file]})
            for key, value in read_safetensors(path, f"delete the folder {folder} and run again").items():
                parts.setdefault(key, []).append(value)
    rows = {k: Rows(tuple(v) if streamed else (torch.cat(v).float(),)) for k, v in parts.items() if k != "embeddings"}
    captions, reference = folder / "captions.parquet", folder / "reference.safetensors"
    exact = read_safetensors(reference, RUN_AGAIN) if reference.is_file() else None
    return FeatureSet(
        summaries=rows["summaries"],
        embeddings=torch.cat(parts["embeddings"]),
        raw_embeddings=rows.get("raw_embeddings"),
        texts=read_safetensors(folder / "texts.safetensors", RUN_AGAIN)["embeddings"],
        samples=pd.read_parquet(folder / "samples.parquet"),
        captions=pd.read_parquet(captions) if captions.is_file() else None,
        manifest=manifest,
        streamed=streamed,
        reference=None if exact is None else (exact["places"], exact["embeddings"]),
    )


def _summary_bytes(shards: Path, cache: Path, manifest: dict) -> int:
    """Return the bytes that summaries and raw embeddings take as float32, and check the sizes of all files."""
    total = 0
    for name, part in manifest["parts"].items():
        for file, size in part["bytes"].items():
            path = shards / name / file
            if not os.path.isfile(path) or path.stat().st_size != size:
                raise _damaged(path, cache)
            total += size if file[0].isdigit() else 0
    return total * (2 if manifest["recorded"]["dtype"] == "float16" else 1)
