"""Find the settings of a run that are worth their cost, and the best of each kind within a budget.

A setting is an encoder with a policy at one operating point. Pure numpy and pandas (docs/method.md#pareto).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

FULL, FIXED, TGEM, RULE = "full encoder", "fixed exit", "T-GEM", "other exit rule"
MERGING, MERGED = "token merging", " on merged tokens"
KINDS = (FULL, MERGING, FIXED, RULE, TGEM, FIXED + MERGED, RULE + MERGED, TGEM + MERGED)
"""Kinds of settings that are compared: the full encoder, and ways to make it cheaper."""
ALMOST = 1e-9
"""Share of a budget by which a cost may exceed it through rounding."""


def kind_of(declared: dict, merges: bool) -> str:
    """Return the kind of a policy on an encoder.

    Args:
        declared: Class attributes of the policy (`tgems.policies.declarations.declared`).
        merges: Whether the encoder merges tokens.
    """
    if declared["name"] == "full":
        return MERGING if merges else FULL
    kind = TGEM if declared["contender"] else RULE if declared["adaptive"] else FIXED
    return kind + MERGED * merges


def non_dominated(cost: ArrayLike, value: ArrayLike) -> np.ndarray:
    """Return which settings no other one dominates `[n]` bool.

    A setting is dominated if another one costs at most as much, is at least as good, and is strictly better in one of
    the two. Settings without a cost or a value (NaN) neither dominate nor are counted as not dominated.

    Args:
        cost: Costs `[n]`.
        value: Values `[n]`; the higher, the better.
    """
    costs, values = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    known = np.flatnonzero(np.isfinite(costs) & np.isfinite(values))
    order = known[np.lexsort((-values[known], costs[known]))]
    found, best = np.zeros(len(costs), dtype=bool), -np.inf
    for k, i in enumerate(order):
        same = k > 0 and costs[i] == costs[order[k - 1]] and values[i] == values[order[k - 1]]
        found[i] = found[order[k - 1]] if same else values[i] > best
        best = max(best, values[i])
    return found


def budgets(settings: pd.DataFrame, rate_targets: Sequence[float]) -> pd.DataFrame:
    """List the budgets at which settings are compared: what full encoders cost, and shares of the largest one's cost.

    Args:
        settings: Settings of one data set, metric, kind of cost and batch size: `backbone`, `kind`, `cost`.
        rate_targets: Shares of the largest encoder's cost.

    Returns:
        Columns `budget` and `budget_of`, which says what the budget is, in ascending order; without duplicates.
    """
    whole = settings[settings["kind"].isin((FULL, MERGING))].drop_duplicates("backbone")
    if whole.empty:
        return pd.DataFrame(columns=["budget", "budget_of"])
    largest = whole.sort_values("cost", kind="stable").iloc[-1]
    rows = list(zip(whole["cost"], whole["backbone"], strict=True))
    rows += [(rate * largest["cost"], f"{rate:g} of {largest['backbone']}") for rate in rate_targets]
    found = pd.DataFrame(rows, columns=["budget", "budget_of"]).sort_values("budget", kind="stable")
    return found.drop_duplicates("budget", ignore_index=True)


def best_of_each_kind(settings: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Pick the best setting of each kind within a budget, by values on validation images.

    Args:
        settings: Settings of one data set, metric, kind of cost and batch size: `kind`, `cost`, `value`, and
            `cost_validation` and `value_validation`. Test values decide if there are no values on validation images.
        budget: Largest cost on validation images.

    Returns:
        One row per kind, the best first, with the columns `place`, counted from 1, and `picked_on`. Of equally good
        settings, the cheapest one is picked.
    """
    on = "validation" if settings["value_validation"].notna().any() else "test"
    value, cost = ("value_validation", "cost_validation") if on == "validation" else ("value", "cost")
    within = settings[(settings[cost] <= budget * (1 + ALMOST)) & settings[value].notna()]
    best = within.sort_values([value, cost], ascending=[False, True], kind="stable").drop_duplicates("kind")
    return best.assign(place=range(1, len(best) + 1), picked_on=on)


def verdict(low: float, high: float) -> str:
    """Say what the 95 percent interval of a difference shows: `better`, `worse` or `not distinguishable` from zero."""
    if np.isnan(low) or np.isnan(high):
        return "unknown"
    return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
