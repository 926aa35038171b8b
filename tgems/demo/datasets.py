"""Generate the embedded data sets: digit scenes for retrieval and for four zero-shot classification tasks."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tgems.data.webdataset import Prompts, Sample, write_split
from tgems.demo import scenes as sc
from tgems.demo.handwriting import load_handwriting, split_handwriting
from tgems.demo.rendering import encode_png, render

PROMPTS = {
    "scenes": None,
    "digits": Prompts(sc.VALUES, ("a {c}", "a handwritten {c}")),
    "colors": Prompts(sc.COLORS, ("something {c}", "a {c} digit")),
    "relations": Prompts(tuple(sc.relation_phrase(r) for r in sc.RELATIONS), ("{c}",)),
    "handwriting": Prompts(sc.VALUES, ("a handwritten {c}", "a {c}")),
}
TRAINING_SHARES = {"plain": 0.08, "single": 0.32, "above": 0.16, "left of": 0.16, "row": 0.14, "column": 0.14}
RETRIEVAL_SHARES = {"single": 0.08, "above": 0.22, "left of": 0.22, "row": 0.24, "column": 0.24}
ZEROSHOT_SHARES = {
    "digits": {"single": 1.0},
    "colors": {"single": 1.0},
    "relations": dict.fromkeys(sc.RELATIONS, 0.25),
}
CAPTIONS_IN_TRAINING = 3


def samples(dataset: str, part: str, n: int, seed: int) -> Iterator[Sample]:
    """Generate the samples of one split of an embedded data set.

    Args:
        dataset: A key of `PROMPTS`.
        part: Part of the handwriting; `backbone` and `train` exist only for `scenes`.
        n: Number of samples. It is ignored for `handwriting`, which has each source image of the part once.
        seed: Seed of all embedded data.

    Raises:
        ValueError: There is no such data set, or it has no such part.
    """
    if dataset not in PROMPTS:
        raise ValueError(f"demo data set {dataset!r} is unknown: expected one of {', '.join(PROMPTS)}")
    if part in ("backbone", "train") and dataset != "scenes":
        raise ValueError(f"demo data set {dataset!r} has no part {part!r}: only 'scenes' is for training")
    stream = list(PROMPTS).index(dataset)
    if dataset == "handwriting":
        drawn = _handwriting(part, seed)
    elif dataset == "scenes" and part in ("backbone", "train"):
        drawn = sc.scenes(seed, part, stream, n, TRAINING_SHARES)
    elif dataset == "scenes":
        drawn = sc.scenes(seed, part, stream, n, RETRIEVAL_SHARES, unique=True)
    else:
        drawn = sc.scenes(seed, part, stream, n, ZEROSHOT_SHARES[dataset])
    for index, scene in enumerate(drawn):
        captions, label = (), None
        if dataset == "scenes":
            captions = (sc.caption(sc.full_description(scene)),)
            if part in ("backbone", "train"):
                rng = sc.sample_rng(seed, part, stream, index, 10_000)
                others = (sc.partial_description(scene, rng) for _ in range(CAPTIONS_IN_TRAINING - 1))
                captions += tuple(sc.caption(d) for d in others)
        else:
            label = _label(dataset, scene)
        yield Sample(f"{part}-{index:06d}", encode_png(render(scene)), "png", label, captions, _metadata(scene))


def generate_split(dataset: str, part: str, n: int, seed: int, folder: Path, shard_size: int) -> int:
    """Generate one split, write it in clip_benchmark's layout, and return its number of samples."""
    from tqdm import tqdm

    bar = tqdm(samples(dataset, part, n, seed), total=n, desc=f"{dataset}/{part}", unit="image", mininterval=2)
    return write_split(bar, folder, shard_size)


def _handwriting(part: str, seed: int) -> Iterator[sc.Scene]:
    values = load_handwriting()[1]
    for source in np.sort(np.concatenate(split_handwriting(part, seed))):
        yield sc.plain_scene(int(source), int(values[source]))


def _label(dataset: str, scene: sc.Scene) -> int:
    if dataset == "colors":
        return sc.COLORS.index(scene.digits[0].color)
    if dataset == "relations":
        return sc.RELATIONS.index(scene.layout)
    return scene.digits[0].value


def _metadata(scene: sc.Scene) -> dict:
    """Return attributes by which results are broken down, and `sources`, the handwritings that images may share."""
    return {
        "sources": sorted({str(digit.source) for digit in scene.digits}),
        "layout": scene.layout,
        "difficulty": round(scene.difficulty, 6),
        "n_digits": len(scene.digits),
        "digits": [
            {k: v for k, v in asdict(d).items() if k in ("source", "value", "color", "size", "position")}
            for d in scene.digits
        ],
    }
