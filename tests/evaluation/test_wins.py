import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.evaluation.bootstrap import holm
from tgems.evaluation.curves import area, interpolate
from tgems.evaluation.wins import Curve, areas, as_frame, from_frame, of_other_domain, wins

increasing = st.lists(st.floats(0.01, 1.2), min_size=2, max_size=9, unique=True)


@settings(max_examples=60, deadline=None)
@given(increasing, st.integers(0, 2**31))
def test_interpolation_equals_numpy_inside_and_is_missing_outside(rates, seed):
    rng = np.random.default_rng(seed)
    values, x = rng.random(len(rates)), rng.uniform(0, 1.3, 5)
    read = interpolate(x[None], np.array([rates]), values[None])[0]
    order = np.argsort(rates)
    expected = np.interp(x, np.array(rates)[order], values[order], left=np.nan, right=np.nan)
    assert read == pytest.approx(expected, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(increasing, st.integers(0, 2**31))
def test_area_equals_a_fine_sum(rates, seed):
    rates = np.array([0.1, *rates, 1.3])
    values = np.random.default_rng(seed).random(len(rates))
    grid = np.linspace(0.3, 0.9, 60_001)
    order = np.argsort(rates)
    expected = np.interp(grid, rates[order], values[order]).mean()
    assert area(rates[None], values[None])[0] == pytest.approx(expected, abs=2e-3)


def test_area_of_a_curve_that_does_not_reach_is_missing():
    assert np.isnan(area(np.array([[0.5, 1.0]]), np.array([[0.1, 0.2]]))[0])
    assert area(np.array([[0.2, 1.0]]), np.array([[0.4, 0.4]]))[0] == pytest.approx(0.4)


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_only_raises(p):
    adjusted = holm(np.array(p))
    assert (adjusted >= np.array(p) - 1e-12).all() and (adjusted <= 1).all()
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= -1e-12).all()


def curve(rates, values, noise=0.0, targets=None, seed=0):
    rng = np.random.default_rng(seed)
    values = np.array(values)[None] + noise * np.vstack(
        (np.zeros(len(values)), rng.standard_normal((400, len(values))))
    )
    return Curve(np.tile(rates, (401, 1)), values, targets or [None] * len(rates))


def test_the_competitor_is_picked_on_validation_and_read_at_the_realised_rate():
    own = curve([0.1, 0.5, 1.0], [0.1, 0.7, 0.9], 0.01, [None, 0.5, None])
    good = curve([0.1, 0.4, 1.0], [0.1, 0.5, 0.9], 0.01, [None, 0.5, None], seed=1)
    lucky = curve([0.1, 0.4, 1.0], [0.1, 0.9, 0.9], 0.01, [None, 0.5, None], seed=2)
    test = {"acc1": {("tgem", None, "in_domain"): own, ("margin", None, "in_domain"): good}}
    test["acc1"] |= {("entropy", None, "in_domain"): lucky, ("shuffled", "tgem", "in_domain"): lucky}
    validation = {"acc1": dict(test["acc1"])}
    validation["acc1"][("entropy", None, "in_domain")] = curve([0.1, 0.4, 1.0], [0.1, 0.2, 0.9], 0.0, [None, 0.5, None])
    row = wins(test, validation, {"dataset": "x"}).iloc[0]
    assert row["competitor"] == "margin", "the best on validation, though another is better on test"
    assert row["competitor_value"] == pytest.approx(0.5 + 0.4 / 0.6 * 0.1)
    assert row["difference"] == pytest.approx(row["value"] - row["competitor_value"])
    assert row["ci_low"] < row["difference"] < row["ci_high"] and row["p"] < 1e-6


def test_curves_survive_their_file_and_have_ends(evaluated, tmp_path):
    as_frame(evaluated.curves).to_parquet(tmp_path / "c.parquet")
    again = from_frame(pd.read_parquet(tmp_path / "c.parquet"))
    assert set(again) == set(evaluated.curves)
    for metric, by_key in evaluated.curves.items():
        assert set(again[metric]) == set(by_key)
        for key, one in by_key.items():
            assert again[metric][key].rates[0] == pytest.approx(one.rates[0])
            assert again[metric][key].values[0] == pytest.approx(one.values[0])
            assert one.values[0, -1] == pytest.approx(
                evaluated.table.query("policy == 'full' and metric == @metric")["value"].iloc[0]
            )
            assert again[metric][key].targets == one.targets


def test_wins_and_areas_of_a_split(evaluated):
    table = wins(evaluated.curves, evaluated.curves, {"dataset": "x"})
    assert set(table["policy"]) == {"tgem", "tgem_bank"} and len(table)
    assert not table["competitor"].isin(["tgem", "tgem_bank", "shuffled", "oracle", "full"]).any()
    unsafe = {"margin", "entropy", "max_softmax", "patience", "hull"}
    assert not table.query("direction == 'text_to_image'")["competitor"].isin(unsafe).any()
    under = areas(evaluated.curves, evaluated.curves, {"dataset": "x"})
    assert under["area"].to_numpy() == pytest.approx(under["area_validation"].to_numpy(), nan_ok=True)
    assert under["area"].notna().any() and under["area"].dropna().between(0, 1).all()


def test_without_validation_images_competitors_are_picked_on_another_set():
    own = {("tgem", None, "transfer"): curve([0.1, 0.5, 1.0], [0.1, 0.7, 0.9], 0.01, [None, 0.5, None])}
    for seed, name in enumerate(("margin", "entropy")):
        own[(name, None, "transfer")] = curve([0.1, 0.5, 1.0], [0.1, 0.6, 0.9], 0.01, [None, 0.5, None], seed + 1)
    recall = {
        (name, None, "in_domain"): curve([0.1, 0.5, 1.0], [0.0, value, 0.8], 0.0, [None, 0.5, None])
        for name, value in (("tgem", 0.4), ("margin", 0.3), ("entropy", 0.5))
    }
    elsewhere = {"text_retrieval_recall@1": recall}
    row = wins({"acc1": own}, of_other_domain(elsewhere, {"acc1": own}), {}).iloc[0]
    assert (row["competitor"], row["calibration"], row["metric"]) == ("entropy", "transfer", "acc1")
    assert areas({"acc1": own}, {}, {})["area_validation"].isna().all()
