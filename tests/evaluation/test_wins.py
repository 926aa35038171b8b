import numpy as np
import pandas as pd
import pytest

from tgems.evaluation.curves import Curve
from tgems.evaluation.uncertainty import SharedSources
from tgems.evaluation.wins import areas, of_other_domain, wins
from tgems.policies.registry import POLICIES

SOURCES = SharedSources([[str(i)] for i in range(200)])


def curve(rates, values, noise=0.0, targets=None, seed=0):
    """A curve of three seeds, whose knots' values depend on 200 images."""
    rng = np.random.default_rng(seed)
    drawn = noise * rng.standard_normal((3, 200, len(values)))
    influence = drawn - drawn.mean(1, keepdims=True)
    return Curve(
        targets or [None] * len(rates),
        np.tile(rates, (3, 1)),
        np.tile(values, (3, 1)),
        lambda k: (np.zeros((3, 200)), influence[..., k]),
    )


def at_half(value, seed=0, noise=0.1):
    return curve([0.1, 0.5, 1.0], [0.1, value, 0.9], noise, [None, 0.5, None], seed)


def best(table):
    return table[table["against"] == "best"].iloc[0]


def test_the_competitor_is_picked_on_validation_and_read_at_the_realised_rate():
    own, good, lucky = (
        curve([0.1, x, 1.0], [0.1, y, 0.9], 0.1, [None, 0.5, None], seed)
        for seed, (x, y) in enumerate([(0.5, 0.7), (0.4, 0.5), (0.4, 0.9)])
    )
    test = {"acc1": {("tgem", None, "in_domain"): own, ("margin", None, "in_domain"): good}}
    test["acc1"] |= {("entropy", None, "in_domain"): lucky, ("shuffled", "tgem", "in_domain"): at_half(0.6)}
    validation = {"acc1": dict(test["acc1"])}
    validation["acc1"][("entropy", None, "in_domain")] = curve([0.1, 0.4, 1.0], [0.1, 0.2, 0.9], 0.0, [None, 0.5, None])
    table = wins(test, validation, POLICIES, SOURCES, {"dataset": "x"})
    row = best(table)
    assert row["competitor"] == "margin", "the best on validation, though another is better on test"
    assert row["competitor_value"] == pytest.approx(0.5 + 0.4 / 0.6 * 0.1)
    assert row["difference"] == pytest.approx(row["value"] - row["competitor_value"])
    assert row["ci_low"] < row["difference"] < row["ci_high"] and row["p"] < 1e-6
    twin = table[table["against"] == "shuffled"].iloc[0]
    assert twin["difference"] == pytest.approx(0.1)


def test_transferred_thresholds_are_compared_at_the_rate_that_they_give():
    """The T-GEM spends .8 where .5 was wanted; at that rate another policy is best on validation."""
    own = curve([0.1, 0.8, 1.0], [0.1, 0.7, 0.9], 0.1, [None, 0.5, None])
    early, late = at_half(0.6, 1), curve([0.1, 0.5, 0.8, 1.0], [0.1, 0.2, 0.88, 0.9], 0.1, [None, 0.5, 0.8, None], 2)
    seen = {("tgem", None, "in_domain"): at_half(0.5), ("margin", None, "in_domain"): early}
    seen |= {("entropy", None, "in_domain"): late}
    test = {(name, None, "transfer"): one for name, one in (("tgem", own), ("margin", early), ("entropy", late))}
    row = best(wins({"acc1": test}, {"acc1": seen}, POLICIES, SOURCES, {}))
    assert row["competitor"] == "entropy" and row["rate"] == pytest.approx(0.8)


def test_nothing_is_concluded_beyond_the_end_of_a_curve():
    own = curve([0.1, 0.99, 1.2], [0.1, 0.7, 0.9], 0.1, [None, 0.9, None])
    short = curve([0.1, 0.5, 0.95], [0.1, 0.2, 0.3], 0.1, [None, 0.5, None])
    validation = {("tgem", None, "in_domain"): own, ("margin", None, "in_domain"): at_half(0.5)}
    test = {("tgem", None, "in_domain"): own, ("margin", None, "in_domain"): short}
    row = best(wins({"acc1": test}, {"acc1": validation}, POLICIES, SOURCES, {}))
    assert row[["difference", "p", "ci_low", "method_ci_high"]].isna().all() and "outside" in row["reason"]


def test_t_gems_are_compared_with_allowed_competitors_and_areas_are_in_the_unit_interval(evaluated):
    table = wins(evaluated.curves, evaluated.curves, POLICIES, evaluated.sources, {"dataset": "x"})
    assert set(table["policy"]) == {"tgem", "tgem_bank"} and set(table["against"]) == {"best", "shuffled", "hull"}
    rivals = table[table["against"] == "best"]["competitor"]
    assert not rivals.isin(["tgem", "tgem_bank", "shuffled", "oracle", "full"]).any()
    unsafe = {"margin", "entropy", "max_softmax", "patience", "margin_raw", "max_softmax_raw"}
    assert not table.query("direction == 'text_to_image'")["competitor"].isin(unsafe).any()
    assert table["difference"].notna().all() and table["p"].between(0, 1).all()
    under = areas(evaluated.curves, evaluated.curves, evaluated.sources, {"dataset": "x"})
    assert under["area"].to_numpy() == pytest.approx(under["area_validation"].to_numpy(), nan_ok=True)
    assert under["area"].notna().any() and under["area"].dropna().between(0, 1).all()


def test_differences_to_the_twin_are_those_of_the_tradeoff_table(evaluated):
    found = wins(evaluated.curves, evaluated.curves, POLICIES, evaluated.sources, {}).query("against == 'shuffled'")
    table = evaluated.table[evaluated.table["seed"].eq("mean")]
    columns = {"difference": "delta_shuffled", "ci_low": "delta_shuffled_ci_low"}
    columns |= {"method_ci_high": "delta_shuffled_method_ci_high"}
    for row in found.to_dict("records"):
        own = table[table["policy"].eq(row["policy"]) & table["metric"].eq(row["metric"])]
        own = own[own["rate_target"].eq(row["rate_target"])].iloc[0]
        assert [row[k] for k in columns] == pytest.approx([own[k] for k in columns.values()])


def test_without_validation_images_competitors_are_picked_on_another_set():
    own = {("tgem", None, "transfer"): at_half(0.7)}
    for seed, name in enumerate(("margin", "entropy")):
        own[(name, None, "transfer")] = at_half(0.6, seed + 1)
    recall = {
        (name, None, "in_domain"): curve([0.1, 0.5, 1.0], [0.0, value, 0.8], 0.0, [None, 0.5, None])
        for name, value in (("tgem", 0.4), ("margin", 0.3), ("entropy", 0.5))
    }
    elsewhere = {"text_retrieval_recall@1": recall}
    row = best(wins({"acc1": own}, of_other_domain(elsewhere, {"acc1": own}), POLICIES, SOURCES, {}))
    assert (row["competitor"], row["calibration"], row["metric"]) == ("entropy", "transfer", "acc1")
    assert areas({"acc1": own}, {}, SOURCES, {})["area_validation"].isna().all()
    assert isinstance(wins({}, {}, POLICIES, SOURCES, {}), pd.DataFrame)
