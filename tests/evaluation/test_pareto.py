"""Which settings are worth their cost, and the best of each kind within a budget, by loops over all pairs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgems.evaluation.pareto import KINDS, best_of_each_kind, budgets, kind_of, non_dominated, verdict
from tgems.policies.declarations import declared

NUMBER = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, np.nan, np.inf])
PAIRS = st.lists(st.tuples(NUMBER, NUMBER), max_size=12)
ROWS = st.lists(st.tuples(st.sampled_from(KINDS[:4]), st.integers(1, 5), st.integers(1, 4), st.booleans()), max_size=12)


def dominates(one: tuple, other: tuple) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and (one[0] < other[0] or one[1] > other[1])


@given(PAIRS)
def test_a_setting_is_on_the_front_if_no_other_one_dominates_it(pairs):
    known = [pair for pair in pairs if np.isfinite(pair).all()]
    expected = [bool(np.isfinite(pair).all()) and not any(dominates(one, pair) for one in known) for pair in pairs]
    assert non_dominated(*np.array(pairs).reshape(-1, 2).T).tolist() == expected


@given(ROWS, st.integers(1, 5), st.booleans())
def test_the_best_of_each_kind_has_the_highest_validation_value_within_the_budget(rows, budget, with_validation):
    table = pd.DataFrame(rows, columns=["kind", "cost_validation", "value_validation", "dear"])
    table["value_validation"] /= 4
    table = table.assign(cost=table["cost_validation"] + table["dear"], value=1 - table["value_validation"])
    if not with_validation:
        table["value_validation"] = np.nan
    value, cost = ("value_validation", "cost_validation") if with_validation and rows else ("value", "cost")
    found = best_of_each_kind(table, budget)
    best = {}
    for row in table.to_dict("records"):
        rank = (-row[value], row[cost])
        if row[cost] <= budget and (row["kind"] not in best or rank < best[row["kind"]]):
            best[row["kind"]] = rank
    assert dict(zip(found["kind"], zip(-found[value], found[cost], strict=True), strict=True)) == best
    assert found["place"].tolist() == list(range(1, len(best) + 1)) and found[value].is_monotonic_decreasing
    assert set(found["picked_on"]) <= {"validation" if with_validation else "test"}


def test_budgets_are_the_costs_of_encoders_and_shares_of_the_largest():
    rows = [("large", "full encoder", 8.0), ("small", "full encoder", 4.0), ("thin", "token merging", 6.0)]
    rows += [("large", "T-GEM", 9.0), ("large", "fixed exit", 1.0)]
    table = pd.DataFrame(rows, columns=["backbone", "kind", "cost"])
    found = budgets(table, [0.25, 0.5])
    assert found.to_records(index=False).tolist() == [
        (2.0, "0.25 of large"),
        (4.0, "small"),
        (6.0, "thin"),
        (8.0, "large"),
    ]
    assert budgets(table[table["kind"].eq("T-GEM")], [0.5]).empty


@pytest.mark.parametrize(
    ("policy", "merges", "kind"),
    [
        ("full", False, "full encoder"),
        ("full", True, "token merging"),
        ("fixed_raw", False, "fixed exit"),
        ("margin", False, "other exit rule"),
        ("router", True, "other exit rule on merged tokens"),
        ("tgem", False, "T-GEM"),
        ("tgem_bank", True, "T-GEM on merged tokens"),
    ],
)
def test_policies_are_of_one_kind_each(policy, merges, kind):
    assert kind_of(declared(policy), merges) == kind and kind in KINDS


def test_a_verdict_needs_an_interval_on_one_side_of_zero():
    assert [verdict(low, low + 0.1) for low in (0.01, -0.05, -0.2, np.nan)] == [
        "better",
        "not distinguishable",
        "worse",
        "unknown",
    ]
