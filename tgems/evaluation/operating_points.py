"""Apply policies to a split: the hits and rates of every image at each operating point."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from tgems.costs.exit_costs import ExitCosts
from tgems.evaluation.metrics import hits_per_image
from tgems.evaluation.split import Split
from tgems.evaluation.thresholds import Fitted
from tgems.policies.interface import Policy

RECALL_AT = (1, 5, 10)
PERMUTATIONS = 10


@dataclass(frozen=True)
class Row:
    """One operating point on one split.

    Attributes:
        about: Columns that identify it: policy, twin_of, guidance, calibration, rate_target, exit_block, seed, ...
        rates: Relative cost of each image `[n]`.
        hits: Hits of each image `[n]` by metric; for text to image, the number of its captions that are hits.
        exits: Exit of each image `[n]`; None if only shares of images are known.
    """

    about: dict
    rates: np.ndarray
    hits: dict[str, np.ndarray]
    exits: np.ndarray | None = field(default=None)


class Scorer:
    """Counts the hits that result from exits, or from shares of exits, for one split and the embeddings of one seed."""

    def __init__(self, split: Split):
        self.split, self.truth = split, split.truth
        ranks = split.ranks.numpy()
        if split.query_bank is not None:
            self.image_hits = {}  # normalisation changes no ranking of texts
        elif self.truth.text_image is not None:
            self.image_hits = {f"text_retrieval_recall@{k}": (ranks < k).astype(float) for k in RECALL_AT}
        else:
            self.image_hits = {f"acc{k}": (ranks < k).astype(float) for k in (1, 5) if len(self.truth.texts) >= k}

    def at(self, exits: np.ndarray, text_to_image: bool) -> dict[str, np.ndarray]:
        """Return hits if image i leaves at `exits[i]`."""
        hits = {name: table[np.arange(len(exits)), exits] for name, table in self.image_hits.items()}
        return hits | (self.text_to_image(exits) if text_to_image else {})

    def expected(self, shares: np.ndarray) -> dict[str, np.ndarray]:
        """Return expected hits if exits are drawn with `shares [E]`, without the text-to-image direction."""
        return {name: table @ shares for name, table in self.image_hits.items()}

    def shuffled(self, exits: np.ndarray, text_to_image: bool, seed: list[int]) -> dict:
        """Return hits of these exits shuffled over images: the expectation, or for text-to-image a mean over draws."""
        shares = np.bincount(exits, minlength=len(self.split.costs.blocks)) / len(exits)
        hits = self.expected(shares)
        if text_to_image and self.truth.text_image is not None:
            rng = np.random.default_rng(seed)
            draws = [self.text_to_image(rng.permutation(exits)) for _ in range(PERMUTATIONS)]
            hits |= {name: np.mean([d[name] for d in draws], axis=0) for name in draws[0]}
        return hits

    def text_to_image(self, exits: np.ndarray) -> dict[str, np.ndarray]:
        """Return hits of the texts in the gallery where image i left at `exits[i]`; none without captions."""
        if self.truth.text_image is None:
            return {}
        n, ranks = len(exits), self.split.gallery_ranks(torch.from_numpy(exits))
        return {
            f"image_retrieval_recall@{k}": hits_per_image(ranks, self.truth.text_image, n, k).numpy() for k in RECALL_AT
        }


def fits_of(split: Split, policies: dict[str, Policy], fitted: list[Fitted]) -> Iterator[tuple[Fitted, Policy]]:
    """Yield the operating points that belong to a split's modules, seed and normalisation, with their policies."""
    for fit in fitted:
        policy, same = policies[fit.policy], fit.score_normalisation == split.score_normalisation
        if fit.seed == split.seed and same and split.serves(policy):
            if split.rate_target in (None, fit.point.rate_target):
                yield fit, policy


def policy_rows(
    split: Split,
    policies: dict[str, Policy],
    fitted: list[Fitted],
    calibration: str,
    shuffle: bool,
) -> Iterator[Row]:
    """Yield the rows of frozen operating points on a split, and of the shuffled twins of adaptive policies.

    Policies that need the texts beforehand, and oracles, have no text-to-image metrics: they cannot build an index.

    Args:
        split: Images, and modules of one seed (or none).
        policies: Policies by name.
        fitted: Operating points; those of other modules, seeds or normalisations are skipped.
        calibration: Source of the thresholds, `in_domain` or `transfer`; recorded for points with a rate target.
        shuffle: Whether to yield shuffled twins.
    """
    scorer = Scorer(split)
    last = len(split.costs.blocks) - 1
    for fit, policy in fits_of(split, policies, fitted):
        point = fit.point
        price = policy.costs(split.costs, len(split.outputs.bank), point.visited)
        about = identity(fit, policy, calibration, split)
        if policy.mixes:
            shares = policy.shares(point, last + 1)
            yield Row(about, np.full(len(split.outputs), price @ shares), scorer.expected(shares))
            if scorer.truth.text_image is not None:
                exits = policy.decide(split.outputs, point).numpy()
                yield Row(about, price[exits], scorer.text_to_image(exits))
            continue
        text_to_image = policy.index_safe
        exits = policy.decide(split.outputs, point).numpy()
        yield Row(about, price[exits], scorer.at(exits, text_to_image), exits)
        if shuffle and policy.adaptive and split.query_bank is None:
            seed = [fit.seed or 0, round(1000 * (point.rate_target or 0))]
            without = scorer.shuffled(exits, text_to_image, seed)
            twin = {"policy": "shuffled", "twin_of": fit.policy, "index_safe": about["index_safe"]}
            kept = {k: v for k, v in about.items() if k not in ("threshold", "bank_size")}
            yield Row(kept | twin, np.full(len(exits), price[exits].mean()), without)


def endpoint_rows(split: Split) -> Iterator[Row]:
    """Yield the ends of a seed's curves, or of the frozen ones: all images at the first exit, and all at the last.

    Heads that were trained together with gates have no ends of their own: their curves end where those of the shared
    heads do.
    """
    if split.policies is not None:
        return
    scorer = Scorer(split)
    for name, exit_ in (("first", 0), ("last", len(split.costs.blocks) - 1)):
        exits = np.full(len(split.outputs), exit_)
        about = {"policy": f"endpoint_{name}", "score_normalisation": split.score_normalisation}
        about |= {} if split.seed is None else {"seed": split.seed}
        yield Row(about, exits * np.nan, scorer.at(exits, True))


def identity(fit: Fitted, policy: Policy, calibration: str, split: Split) -> dict:
    """Return the columns that identify the row of an operating point."""
    about = {"policy": fit.policy, "guidance": policy.guidance, "index_safe": policy.index_safe}
    about["score_normalisation"] = split.score_normalisation
    if split.query_bank is not None:
        about |= split.query_bank.about
    if policy.needs_bank:
        about["bank_size"] = len(split.outputs.bank)
    if fit.seed is not None:
        about["seed"] = fit.seed
    if fit.point.exit is not None:
        about["exit_block"] = split.costs.blocks[fit.point.exit]
    if fit.point.rate_target is not None:
        about |= {"rate_target": fit.point.rate_target, "calibration": calibration}
        about["rate_validation"] = fit.rate_validation
    if fit.point.thresholds and len(set(fit.point.thresholds)) == 1:
        about["threshold"] = fit.point.thresholds[0]
    return about


def exit_shares(rows: list[Row], costs: ExitCosts, about: dict) -> pd.DataFrame:
    """Tabulate the share of images by exit, for every row with a rate target whose policy decides image by image."""
    records = []
    for row in rows:
        if row.exits is None or "rate_target" not in row.about or row.about["score_normalisation"] != "none":
            continue
        shares = np.bincount(row.exits, minlength=len(costs.blocks)) / len(row.exits)
        keep = {k: row.about.get(k) for k in ("policy", "calibration", "rate_target", "seed")}
        records += [about | keep | {"exit_block": b, "share": s} for b, s in zip(costs.blocks, shares, strict=True)]
    return pd.DataFrame(records)
