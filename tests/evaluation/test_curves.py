import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.evaluation.curves import Curve, as_frame, from_frame
from tgems.evaluation.uncertainty import Estimate

increasing = st.lists(st.floats(0.01, 1.2), min_size=2, max_size=9, unique=True)


def of_images(rates, hits, seeded=True):
    """A curve through the means of per-image rates and hits `[S, n, k]`."""
    mean_rates, mean_hits = rates.mean(1), hits.mean(1)
    targets = [None] * rates.shape[-1]

    def influence(k):
        return rates[..., k] - mean_rates[:, None, k], hits[..., k] - mean_hits[:, None, k]

    return Curve(targets, mean_rates, mean_hits, influence, seeded)


def weighted(rates, hits, weights):
    """Build a curve in which each image counts by its weight."""
    share = weights / weights.sum()
    return Curve([None] * rates.shape[-1], np.einsum("snk,n->sk", rates, share), np.einsum("snk,n->sk", hits, share))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    n, level = 60, np.array([0.15, 0.4, 0.55, 0.8, 1.0])
    rates = level + rng.uniform(-0.05, 0.05, (2, n, 5))
    hits = (rng.random((2, n, 5)) < 0.3 + 0.6 * level).astype(float)
    return rates, hits


def slope_by_weight(statistic, n, i, step=1e-5):
    """n times the numerical derivative of a statistic with respect to the weight of one image."""
    up, down = np.ones(n), np.ones(n)
    up[i], down[i] = 1 + step, 1 - step
    return n * (statistic(up) - statistic(down)) / (2 * step)


def test_influences_on_a_height_equal_numerical_derivatives(images):
    """The rate at which the curve is read depends on the images, too."""
    rates, hits = images
    curve, own = of_images(rates, hits), np.random.default_rng(1).uniform(0.4, 0.8, (2, 60))
    rate = Estimate(own.mean(1), own - own.mean(1, keepdims=True), True)
    read = curve.read(rate)
    for seed in range(2):
        one = rates[seed : seed + 1], hits[seed : seed + 1]

        def height(weights, one=one, seed=seed):
            return weighted(*one, weights).height(own[seed] @ weights / weights.sum())

        assert read.values[seed] == pytest.approx(height(np.ones(60)))
        for i in (0, 7, 59):
            assert read.influence[seed, i] == pytest.approx(slope_by_weight(height, 60, i), abs=1e-5)


def test_influences_on_an_area_equal_numerical_derivatives(images):
    rates, hits = images
    found = of_images(rates, hits).area_estimate()
    for seed in range(2):
        one = rates[seed : seed + 1], hits[seed : seed + 1]

        def area(weights, one=one):
            return weighted(*one, weights).area()[0]

        assert found.values[seed] == pytest.approx(area(np.ones(60)))
        for i in (0, 7, 59):
            assert found.influence[seed, i] == pytest.approx(slope_by_weight(area, 60, i), abs=1e-5)
    assert found.influence.mean(1) == pytest.approx(0, abs=1e-12)


def test_a_curve_without_seeds_is_read_by_each_seed(images):
    rates, hits = images
    unseeded = of_images(rates[:1], hits[:1], seeded=False)
    read = unseeded.read(Estimate(np.array([0.5, 0.7]), np.zeros((2, 60)), True))
    assert read.seeded and read.values.tolist() == [unseeded.height(0.5), unseeded.height(0.7)]
    constant = unseeded.read(Estimate(np.array([0.5]), np.zeros((1, 60)), False))
    assert not constant.seeded and len(constant.values) == 1


@settings(max_examples=60, deadline=None)
@given(increasing, st.integers(0, 2**31))
def test_height_equals_numpy_inside_and_is_missing_outside(rates, seed):
    rng = np.random.default_rng(seed)
    values, rates = rng.random(len(rates)), np.array(rates)
    curve, order = Curve([None] * len(rates), rates[None], values[None]), np.argsort(rates)
    for x in rng.uniform(0, 1.3, 5):
        expected = np.interp(x, rates[order], values[order], left=np.nan, right=np.nan)
        assert curve.height(x) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(increasing, st.integers(0, 2**31))
def test_area_equals_a_fine_sum(rates, seed):
    rates = np.array([0.1, *rates, 1.3])
    values = np.random.default_rng(seed).random(len(rates))
    grid = np.linspace(0.3, 0.9, 60_001)
    order = np.argsort(rates)
    expected = np.interp(grid, rates[order], values[order]).mean()
    assert Curve([None] * len(rates), rates[None], values[None]).area()[0] == pytest.approx(expected, abs=2e-3)


def test_area_of_a_curve_that_does_not_reach_the_bounds_is_missing():
    assert np.isnan(Curve([None] * 2, np.array([[0.5, 1.0]]), np.array([[0.1, 0.2]])).area()[0])
    assert Curve([None] * 2, np.array([[0.2, 1.0]]), np.array([[0.4, 0.4]])).area()[0] == pytest.approx(0.4)


def test_curves_are_restored_from_their_file_and_end_at_the_full_encoder(evaluated, tmp_path):
    as_frame(evaluated.curves).to_parquet(tmp_path / "c.parquet")
    again = from_frame(pd.read_parquet(tmp_path / "c.parquet"))
    assert set(again) == set(evaluated.curves)
    for metric, by_key in evaluated.curves.items():
        assert set(again[metric]) == set(by_key)
        full = evaluated.table.query("policy == 'full' and metric == @metric")["value"].iloc[0]
        for key, one in by_key.items():
            assert again[metric][key].rates == pytest.approx(one.rates)
            assert again[metric][key].values == pytest.approx(one.values)
            assert again[metric][key].targets == one.targets
            if not key[0].startswith("hull"):
                assert one.values[:, -1] == pytest.approx(full), key


def test_knots_are_the_rows_of_the_table(evaluated):
    for metric, by_key in evaluated.curves.items():
        curve = by_key["tgem", None, "in_domain"]
        own = evaluated.table.query("policy == 'tgem' and seed == 1").set_index("metric").loc[[metric]]
        own = own.set_index("rate_target")
        for j, target in enumerate(curve.targets):
            if target is not None:
                assert curve.rates[1, j] == pytest.approx(own.loc[target, "rate"])
                assert curve.values[1, j] == pytest.approx(own.loc[target, "value"])


def test_the_hull_never_falls(evaluated):
    """Its curve on the images of the fit continues at the same height where deeper exits are worse."""
    for metric, by_key in evaluated.curves.items():
        for name in ("hull", "hull_raw"):
            curve = by_key[name, None, "in_domain"]
            tolerance = 0.06 if metric.startswith("image_retrieval") else 1e-9  # a drawn gallery is no expectation
            assert (np.diff(curve.values, axis=1) >= -tolerance).all(), (metric, name)


def test_curves_without_any_rate_target_are_restored(tmp_path):
    curves = {"acc1": {("fixed", None, None): Curve([None] * 2, np.array([[0.2, 1.0]]), np.array([[0.4, 0.5]]))}}
    as_frame(curves).to_parquet(tmp_path / "c.parquet")
    again = from_frame(pd.read_parquet(tmp_path / "c.parquet"))["acc1"]["fixed", None, None]
    assert again.targets == [None, None] and again.height(0.6) == pytest.approx(0.45)
