"""Operating points of a run whose speed is measured, with the exits that images take and those that are evaluated.

Weights do not matter for speed: heads, gates and texts are random, but of the right kind and size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.costs.exit_costs import ExitCosts
from tgems.evaluation.thresholds import Fitted, read_thresholds
from tgems.exits.bank_modules import BankGates, ConfidenceAndVarianceGates
from tgems.exits.modules import ExitHeads, Gates, ImageGates, LookaheadGates
from tgems.policies.interface import Policy, ThresholdPolicy
from tgems.policies.registry import find_policies
from tgems.runtime.early_exit import asked_exits
from tgems.runtime.live_view import ExitDecider

Placed = TypeVar("Placed", bound=torch.nn.Module)


@dataclass(frozen=True)
class MeasuredSetting:
    """An operating point whose speed is measured.

    Attributes:
        decider: Policy and modules, and the exits at which the policy is evaluated.
        shares: Share of images by exit `[E]`.
        prices: Relative cost of leaving at each exit `[E]`.
        rate_target: Its rate target; None for a fixed exit.
        policy: Name of the policy.
        dataset: Data set of the images; None for a fixed exit, which takes the same time on all.
        exit_block: Block of a fixed exit.
    """

    decider: ExitDecider
    shares: np.ndarray
    prices: np.ndarray
    rate_target: float | None
    policy: str
    dataset: str | None = None
    exit_block: int | None = None

    @property
    def names(self) -> tuple[float | None, str, str | None, int | None]:
        """Rate target, policy, data set and block."""
        return self.rate_target, self.policy, self.dataset, self.exit_block


class RandomModules:
    """Random heads, gates and texts for the exits of an encoder, in eval mode.

    Args:
        costs: Costs and sizes of the exits.
        hidden: Hidden widths of `heads`, `image_gates` and `bank_gates`.
        device: Device to put them on.
    """

    def __init__(self, costs: ExitCosts, hidden: Mapping[str, int], device: str):
        self.costs, self.hidden, self.device = costs, hidden, device
        self.size = len(costs.blocks) - 1, costs.summary_dim
        self.widths = None if len(set(costs.widths)) == 1 else costs.widths
        self.heads = self._placed(ExitHeads(*self.size, hidden["heads"], costs.embed_dim, self.widths))

    def gates(self, kind: str | None) -> Gates | None:
        """Return new gates of a kind (`tgems.costs.exit_costs.GATES`); None for none."""
        if kind is None:
            return None
        if kind in ("bank", "variance"):
            width = self.hidden["bank_gates"]
            if kind == "bank":
                return self._placed(BankGates(*self.size, width, self.widths))
            return self._placed(ConfidenceAndVarianceGates(*self.size, width, self.costs.width, self.widths))
        width = self.hidden["image_gates"]
        if kind == "image":
            return self._placed(LookaheadGates(*self.size, width, self.costs.fixed().tolist(), widths=self.widths))
        return self._placed(ImageGates(*self.size, width, widths=self.widths))

    def decider(self, policy: Policy, visited: Sequence[int], bank_size: int = 0) -> ExitDecider:
        """Return a decider whose policy may let images leave at some exits (0-based)."""
        heads = None if policy.frozen_head else self.heads
        bank = self.texts(bank_size) if policy.needs_bank else None
        asked = asked_exits(policy, self.costs, visited)
        thresholds = dict.fromkeys(visited, 0.0)
        return ExitDecider(policy, self.costs, heads, self.gates(policy.gates), thresholds, asked, bank=bank)

    def texts(self, n: int) -> Tensor:
        """Return unit embeddings `[n, D]` of texts."""
        return F.normalize(torch.randn(n, self.costs.embed_dim, device=self.device), dim=-1)

    def _placed(self, module: Placed) -> Placed:
        return module.to(self.device).eval().requires_grad_(False)


def settings_of_run(
    words: Sequence[str], evaluated: Sequence[tuple[Path, Path]], modules: RandomModules
) -> Iterator[MeasuredSetting]:
    """Yield the operating points of policies on every data set, with the exits of the first seed.

    Args:
        words: Policies, as in the configuration.
        evaluated: `exits.parquet` of the evaluation of each data set, and `thresholds.json` with the thresholds that it
            applied.
        modules: Modules for the exits of the encoder.

    Raises:
        UserError: A policy is unknown, or a file is damaged.
    """
    policies = find_policies(list(words))
    for number, (path, fitted) in enumerate(evaluated):
        taken = pd.read_parquet(path)
        texts = pd.read_parquet(path.with_name("tradeoff.parquet"), columns=["policy", "bank_size"])
        sizes = texts.dropna().drop_duplicates("policy").set_index("policy")["bank_size"]
        for fit in _first_seed(read_thresholds(fitted, modules.costs).thresholds):
            policy = policies.get(fit.policy)
            if policy is None:
                continue
            if isinstance(policy, ThresholdPolicy):
                yield _calibrated(fit, policy, taken, path.parent.name, int(sizes.get(fit.policy, 0)), modules)
            elif fit.point.exit is not None and not number:
                yield _fixed(fit.point.exit, policy, modules)


def _calibrated(
    fit: Fitted, policy: Policy, taken: pd.DataFrame, dataset: str, bank_size: int, modules: RandomModules
) -> MeasuredSetting:
    costs, point = modules.costs, fit.point
    seeds = pd.to_numeric(taken["seed"])
    same = (seeds.isna() if fit.seed is None else seeds.eq(fit.seed)) & taken["policy"].eq(fit.policy)
    own = taken[same & np.isclose(taken["rate_target"], point.rate_target or np.nan)]
    own = own[own["calibration"].eq(own["calibration"].iloc[0])]
    shares = own.set_index("exit_block")["share"].loc[list(costs.blocks)].to_numpy()
    visited = tuple(range(len(costs.blocks) - 1)) if point.visited is None else point.visited
    prices = policy.costs(costs, bank_size, point.visited)
    decider = modules.decider(policy, visited, bank_size)
    return MeasuredSetting(decider, shares, prices, point.rate_target, fit.policy, dataset)


def _fixed(exit_index: int, policy: Policy, modules: RandomModules) -> MeasuredSetting:
    costs = modules.costs
    shares = np.eye(len(costs.blocks))[exit_index]
    decider, prices = modules.decider(policy, (exit_index,)), policy.costs(costs, 0)
    return MeasuredSetting(decider, shares, prices, None, policy.name, None, costs.blocks[exit_index])


def _first_seed(fitted: Sequence[Fitted]) -> list[Fitted]:
    """Return the points without a seed and those of the first one, without score normalisation."""
    first = next((fit.seed for fit in fitted if fit.seed is not None), None)
    return [fit for fit in fitted if fit.seed in (None, first) and fit.score_normalisation == "none"]
