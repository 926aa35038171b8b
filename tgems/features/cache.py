"""The feature cache: one folder per (backbone, data set, split), checked by digest when it is read.

manifest.json        schema version, digests of weights, preprocessing, shards, prompts and of every file below
0.safetensors ..     per shard: summaries [n, E-1, 2W], embeddings [n, D], raw_embeddings [n, E, D] where there are any
texts.safetensors    embeddings [m, D]: class names, or the distinct captions in order of appearance
samples.parquet      per image: key, label, and what the data set's metadata says (difficulty, cluster, ...)
captions.parquet     retrieval only, per caption: image (row), text (row of texts), caption
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from tgems.errors import UserError
from tgems.provenance import digest_file, read_json, write_json

SCHEMA_VERSION = 2
COMPARED = ("schema_version", "weights", "preprocess")


@dataclass(frozen=True)
class FeatureSet:
    """All of one split.

    Attributes:
        summaries: `[n, E-1, 2W]` float32, without the last exit; global and local part, each filled up to W.
        embeddings: `[n, D]` float32, unit.
        raw_embeddings: `[n, E, D]` float32, unit; None where the frozen projection does not accept every exit.
        texts: `[m, D]` float32, unit: classes or distinct captions.
        samples: One row per image.
        captions: One row per caption, or None for classification.
        manifest: As written.
    """

    summaries: Tensor
    embeddings: Tensor
    raw_embeddings: Tensor | None
    texts: Tensor
    samples: pd.DataFrame
    captions: pd.DataFrame | None
    manifest: dict

    @property
    def labels(self) -> Tensor:
        """Class numbers `[n]` int64."""
        return torch.from_numpy(self.samples["label"].to_numpy().copy())

    @property
    def clusters(self):
        """Cluster of each image `[n]` str, or None where images are independent; one that names none is its own."""
        if "cluster" not in self.samples:
            return None
        return self.samples["cluster"].fillna("image " + self.samples["key"]).to_numpy(dtype=str)

    @property
    def n_clusters(self) -> int:
        """Independent units: clusters, or images where there are none."""
        return len(self.samples) if self.clusters is None else len(set(self.clusters))

    def at_exits(self, blocks: Sequence[int], summary_dim: int) -> "FeatureSet":
        """The same split as a backbone with fewer exits sees it.

        Args:
            blocks: Exits to keep, 1-based; the last is the encoder's depth.
            summary_dim: Numbers of a summary to keep: both parts of the widest exit's `d`, or the global part alone.
        """
        kept = self.manifest["blocks"]
        if not set(blocks) <= set(kept):
            raise UserError(
                f"features hold exits {kept}, but {list(blocks)} are in use; delete the folder and run again"
            )
        keep = torch.tensor([kept.index(block) for block in blocks])
        widths = [self.manifest["widths"][k] for k in keep[:-1]]
        parts = self.summaries[:, keep[:-1]].unflatten(-1, (2, -1))[..., : summary_dim // max(widths), : max(widths)]
        return replace(
            self,
            summaries=parts.flatten(2),
            raw_embeddings=None if self.raw_embeddings is None else self.raw_embeddings[:, keep],
            manifest=self.manifest | {"blocks": list(blocks), "widths": widths},
        )

    @property
    def widths(self) -> tuple[int, ...] | None:
        """True width of either part of a summary, per exit before the last; None where all are equal."""
        widths = tuple(self.manifest["widths"])
        return None if len(set(widths)) == 1 else widths

    @property
    def text_embeddings(self) -> Tensor:
        """Embeddings of every caption in order `[m, D]` (retrieval), or of the classes."""
        if self.captions is None:
            return self.texts
        return self.texts[torch.from_numpy(self.captions["text"].to_numpy().copy())]

    @property
    def text_image(self) -> Tensor:
        """Image of every caption `[m]` int64."""
        return torch.from_numpy(self.captions["image"].to_numpy().copy())


def seal(folder: Path, manifest: dict) -> None:
    """Write the manifest last, with the digest of every other file: a folder without it is not a cache."""
    files = {p.name: digest_file(p) for p in sorted(Path(folder).iterdir()) if p.name != "manifest.json"}
    write_json(Path(folder) / "manifest.json", manifest | {"schema_version": SCHEMA_VERSION, "files": files})


def load_features(folder: Path, like: dict | None = None) -> FeatureSet:
    """Read a split, checking every file against its manifest.

    Args:
        folder: Folder of the split.
        like: Manifest that must agree in schema version, weights and preprocessing (say of the training features).

    Raises:
        UserError: Something is missing, truncated, altered, or was made with other weights.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: no manifest.json; the cache is not whole, delete the folder and run again")
    manifest = read_json(folder / "manifest.json")
    expected = {"schema_version": SCHEMA_VERSION} if like is None else {k: like.get(k) for k in COMPARED}
    for key, wanted in expected.items():
        if manifest.get(key) != wanted:
            raise UserError(
                f"{folder}: cached with {key} {manifest.get(key)!r}, but {wanted!r} is in use; "
                "delete the folder and run again"
            )
    for name, digest in manifest["files"].items():
        if not (folder / name).is_file() or digest_file(folder / name) != digest:
            raise UserError(f"{folder / name}: truncated, altered or missing; delete the folder and run again")
    return _read(folder, manifest)


def _read(folder: Path, manifest: dict) -> FeatureSet:
    from safetensors.torch import load_file

    shards = [load_file(folder / f"{i}.safetensors") for i in range(manifest["n_shards"])]
    tensors = {k: torch.cat([s[k] for s in shards]).float() for k in shards[0]}
    captions = folder / "captions.parquet"
    return FeatureSet(
        texts=load_file(folder / "texts.safetensors")["embeddings"],
        samples=pd.read_parquet(folder / "samples.parquet"),
        captions=pd.read_parquet(captions) if captions.is_file() else None,
        manifest=manifest,
        **{"raw_embeddings": None} | tensors,
    )
