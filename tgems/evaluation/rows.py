"""Rows of a trade-off table before uncertainty: per image hits and rates of one policy at one operating point."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tgems.evaluation.inputs import Truth
from tgems.evaluation.metrics import hits_per_image, text_to_image_ranks
from tgems.evaluation.thresholds import FittedHull, FittedThreshold
from tgems.exits.policies import POLICIES, ExitOutputs, choose_exits
from tgems.features.cache import FeatureSet
from tgems.profiling.costs import ExitCosts

RECALL_AT = (1, 5, 10)
PERMUTATIONS = 20


@dataclass(frozen=True)
class Row:
    """One operating point on one split.

    Attributes:
        about: Columns that identify it: policy, variant, guidance, index_safe, rate_target, exit_block, seed, ...
        rates: Relative cost of each image `[n]`.
        hits: Metric -> hits of each image `[n]`, to be divided by `FeatureSet` captions or images.
        exits: Exit of each image `[n]`, where there is one.
    """

    about: dict
    rates: np.ndarray
    hits: dict[str, np.ndarray]
    exits: np.ndarray | None = field(default=None)


class Scorer:
    """Turns exits, or shares of exits, into hits, for one split and one set of embeddings.

    Args:
        truth: Right answers.
        embeddings: `[n, E, D]`.
    """

    def __init__(self, truth: Truth, embeddings: Tensor):
        self.truth, self.embeddings = truth, embeddings
        self.retrieval = truth.text_image is not None
        ranks = truth.image_ranks(embeddings)
        if self.retrieval:
            self.image_hits = {f"text_retrieval_recall@{k}": (ranks < k).double().numpy() for k in RECALL_AT}
        else:
            classes = len(truth.texts)
            self.image_hits = {"acc1": (ranks < 1).double().numpy()}
            if classes >= 5:
                self.image_hits["acc5"] = (ranks < 5).double().numpy()

    def at(self, exits: np.ndarray) -> dict[str, np.ndarray]:
        """Hits where image i left at `exits[i]`."""
        everyone = np.arange(len(exits))
        hits = {name: table[everyone, exits] for name, table in self.image_hits.items()}
        return hits | self._text_to_image(exits)

    def expected(self, shares: np.ndarray) -> dict[str, np.ndarray]:
        """Expected hits where exits are drawn with `shares [E]`, without the text-to-image direction."""
        return {name: table @ shares for name, table in self.image_hits.items()}

    def shuffled(self, exits: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Hits of the same exits without their information: exact, and for text-to-image a mean of permutations."""
        shares = np.bincount(exits, minlength=self.embeddings.shape[1]) / len(exits)
        hits = self.expected(shares)
        if self.retrieval:
            draws = [self._text_to_image(rng.permutation(exits)) for _ in range(PERMUTATIONS)]
            hits |= {name: np.mean([d[name] for d in draws], axis=0) for name in draws[0]}
        return hits

    def _text_to_image(self, exits: np.ndarray) -> dict[str, np.ndarray]:
        if not self.retrieval:
            return {}
        n = len(exits)
        gallery = self.embeddings[torch.arange(n), torch.from_numpy(exits)]
        ranks = text_to_image_ranks(gallery, self.truth.texts, self.truth.text_image)
        return {
            f"image_retrieval_recall@{k}": hits_per_image(ranks, self.truth.text_image, n, k).numpy() for k in RECALL_AT
        }


def unseeded_rows(features: FeatureSet, costs: ExitCosts, policies: list[str]) -> Iterator[Row]:
    """`full` and `fixed_raw`: the backbone alone."""
    scorer = Scorer(Truth.of(features), features.raw_embeddings)
    n, last = len(features.samples), len(costs.blocks) - 1
    for k in range(last + 1):
        policy = "full" if k == last else "fixed_raw"
        if policy in policies or policy == "full":
            about = {"policy": policy, "exit_block": costs.blocks[k], "index_safe": True}
            exits = np.full(n, k)
            yield Row(about, np.full(n, costs.fixed_raw()[k]), scorer.at(exits), exits)


def seed_rows(
    features: FeatureSet,
    outputs: ExitOutputs,
    seed: int,
    policies: list[str],
    thresholds: list[FittedThreshold],
    hulls: list[FittedHull],
) -> Iterator[Row]:
    """All rows of one seed: fixed exits, hull, adaptive policies and their shuffled exits."""
    costs = outputs.costs
    scorer = Scorer(Truth.of(features), outputs.embeddings)
    n, fixed = len(features.samples), costs.fixed()
    if "fixed" in policies:
        for k, block in enumerate(costs.blocks[:-1]):
            exits = np.full(n, k)
            about = {"policy": "fixed", "exit_block": block, "seed": seed, "index_safe": True}
            yield Row(about, np.full(n, fixed[k]), scorer.at(exits), exits)
    for hull in (h for h in hulls if h.seed == seed):
        shares = np.zeros(len(fixed))
        shares[hull.low] += 1 - hull.weight
        shares[hull.high] += hull.weight
        about = {"policy": "hull", "rate_target": hull.rate_target, "seed": seed, "index_safe": True}
        yield Row(about, np.full(n, fixed @ shares), scorer.expected(shares))
    for fitted in (t for t in thresholds if t.seed == seed):
        yield from _adaptive_rows(outputs, scorer, fitted, "shuffled" in policies)


def _adaptive_rows(outputs: ExitOutputs, scorer: Scorer, fitted: FittedThreshold, shuffle: bool) -> Iterator[Row]:
    policy = POLICIES[fitted.policy]
    price = policy.costs(outputs.costs, len(outputs.bank))
    exits = choose_exits(policy.scores(outputs, fitted.rate_target), fitted.threshold).numpy()
    about = {
        "policy": fitted.policy,
        "variant": fitted.policy,
        "guidance": policy.guidance,
        "index_safe": not policy.needs_bank,
        "bank_size": len(outputs.bank) if policy.needs_bank else None,
        "rate_target": fitted.rate_target,
        "seed": fitted.seed,
        "threshold": fitted.threshold,
        "rate_validation": fitted.rate_validation,
        "calibration": "in_domain",
    }
    hits = scorer.at(exits)
    if policy.guidance == "bank":
        hits = {name: h for name, h in hits.items() if not name.startswith("image_retrieval")}
    yield Row(about, price[exits], hits, exits)
    if shuffle:
        rng = np.random.default_rng([fitted.seed, round(1000 * fitted.rate_target)])
        without = {k: v for k, v in scorer.shuffled(exits, rng).items() if k in hits}
        shuffled = {"policy": "shuffled", "threshold": None, "index_safe": True, "bank_size": None}
        yield Row(about | shuffled, np.full(len(exits), price[exits].mean()), without)


def mean_over_seeds(rows: list[Row]) -> list[Row]:
    """Average rows that differ in their seed alone; hits and rates are linear, so images stay paired."""
    groups: dict[tuple, list[Row]] = {}
    own = ("seed", "threshold", "rate_validation")
    for row in rows:
        if "seed" in row.about:
            key = tuple(sorted((k, str(v)) for k, v in row.about.items() if k not in own))
            groups.setdefault(key, []).append(row)
    averaged = []
    for group in groups.values():
        about = {k: v for k, v in group[0].about.items() if k not in own} | {"seed": "mean"}
        if group[0].about.get("rate_validation") is not None:
            about["rate_validation"] = float(np.mean([r.about["rate_validation"] for r in group]))
        hits = {name: np.mean([r.hits[name] for r in group], axis=0) for name in group[0].hits}
        averaged.append(
            replace(group[0], about=about, rates=np.mean([r.rates for r in group], 0), hits=hits, exits=None)
        )
    return averaged
