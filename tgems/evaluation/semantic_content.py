"""Measure the semantic content of each block, the abstract's first finding (docs/method.md#semantic-content)."""

import numpy as np
import pandas as pd

from tgems.evaluation.metrics import hits_per_image, text_to_image_ranks
from tgems.evaluation.split import Split
from tgems.evaluation.uncertainty import Estimate, SharedSources, intervals

THIRDS = ("clean", "middle", "hard")


def semantic_content(raw: Split, trained: list[Split], about: dict) -> pd.DataFrame:
    """Measure accuracy or R@1 after every block, by trained heads and the frozen projection, by group.

    Args:
        raw: Test images with the frozen projection.
        trained: The same images with the heads of each seed, over which hits are averaged.
        about: Columns common to all rows.

    Returns:
        One row per head (the frozen projection only if it accepts every exit), metric, group and block.
        `earliest_share` is the share of images whose right text ranked first at that block or before. Groups are the
        whole split and, if the samples have these attributes, thirds of difficulty and numbers of digits.
    """
    features = raw.features
    sources = SharedSources(features.sources)
    frames = []
    heads = {"trained": trained} if features.raw_embeddings is None else {"raw": [raw], "trained": trained}
    for head, splits in heads.items():
        for metric, per_seed in _hits(splits).items():
            for attribute, group, inside in groups(features.samples):
                frame = _curve(per_seed, inside, sources, head == "trained").assign(exit_block=raw.costs.blocks)
                frames.append(frame.assign(head=head, metric=metric, attribute=attribute, group=group))
    return pd.concat(frames, ignore_index=True).assign(**about)


def groups(samples: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """Return (attribute, group, members `[n]` bool): all images, then the groups of each attribute that varies."""
    found = [("all", "all", np.ones(len(samples), dtype=bool))]
    if "difficulty" in samples and samples["difficulty"].nunique() > 1:
        third = np.floor(samples["difficulty"].to_numpy() * 3).clip(0, 2)  # an image without one is in no third
        found += [("difficulty", name, third == k) for k, name in enumerate(THIRDS)]
    if "n_digits" in samples and samples["n_digits"].nunique() > 1:
        number = samples["n_digits"].to_numpy()
        found += [("n_digits", f"{k:g}", number == k) for k in np.unique(number)]
    return [(attribute, group, inside) for attribute, group, inside in found if inside.any()]


def _hits(splits: list[Split]) -> dict[str, list[np.ndarray]]:
    """Return hits over captions, per seed, of every image and block `[n, E]`."""
    truth = splits[0].truth
    first = [(s.ranks < 1).double().numpy() for s in splits]
    if truth.text_image is None:
        return {"acc1": first}
    n = len(first[0])
    captions = np.bincount(truth.text_image.numpy(), minlength=n)[:, None]
    found = []
    for split in splits:
        ranks = [text_to_image_ranks(z, truth.texts, truth.text_image) for z in split.embeddings.unbind(1)]
        hits = [hits_per_image(r, truth.text_image, n, 1).numpy() for r in ranks]
        found.append(np.stack(hits, 1) / captions)
    return {"text_retrieval_recall@1": first, "image_retrieval_recall@1": found}


def _curve(per_seed: list[np.ndarray], inside: np.ndarray, sources: SharedSources, seeded: bool) -> pd.DataFrame:
    hits, share = np.stack(per_seed), inside.mean()
    values = hits[:, inside].mean(1)
    influence = inside[:, None] / share * (hits - values[:, None])
    found = intervals(Estimate(values, influence, seeded), sources)
    earliest = np.mean([np.maximum.accumulate(h[inside], axis=1).mean(0) for h in per_seed], axis=0)
    columns = {"value": found.value, "earliest_share": earliest}
    for name, ends in (("ci", found.modules), ("method_ci", found.method)):
        columns |= {f"{name}_low": ends[0].clip(0), f"{name}_high": ends[1].clip(max=1)}
    return pd.DataFrame(columns).assign(n=int(inside.sum()))
