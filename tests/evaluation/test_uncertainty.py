import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tgems.evaluation.uncertainty import Estimate, SharedSources, holm, intervals


def drawn_sources(rng, n, n_sources):
    """One to three sources for each image, as digit scenes have them."""
    return [rng.choice(n_sources, size=k, replace=False).astype(str).tolist() for k in rng.integers(1, 4, n)]


def centred(values):
    return values - values.mean(0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(2, 30))
def test_variance_equals_the_sum_over_pairs_with_a_common_source(seed, n, n_sources):
    rng = np.random.default_rng(seed)
    names = [rng.choice(n_sources, size=min(k, n_sources), replace=False) for k in rng.integers(1, 4, n)]
    influence = centred(rng.normal(size=(n, 2)))
    sources = SharedSources([[str(s) for s in own] for own in names])
    alike = [(i, j) for i in range(n) for j in range(n) if set(names[i]) & set(names[j])]
    effective = n**2 / len(alike)
    assert sources.degrees == pytest.approx(effective - 1)
    if sources.degrees <= 0:
        assert np.isnan(sources.variance(influence)).all()
        return
    pairs = sum(influence[i] * influence[j] for i, j in alike)
    expected = np.maximum(pairs, (influence**2).sum(0)) / n**2 * effective / (effective - 1)
    assert sources.variance(influence) == pytest.approx(expected)


def test_variance_of_independent_images_is_the_textbook_formula():
    values = np.random.default_rng(0).normal(size=50)
    sources = SharedSources([[str(i)] for i in range(50)])
    assert sources.variance(centred(values)) == pytest.approx(values.var(ddof=1) / 50)
    assert (sources.n_sources, sources.degrees) == (50, 49)


def test_variance_of_images_in_equal_pairs_is_that_of_the_pair_means():
    values = np.random.default_rng(0).normal(size=30).repeat(2)
    sources = SharedSources([[f"pair {i // 2}"] for i in range(60)])
    assert sources.variance(centred(values)) == pytest.approx(values[::2].var(ddof=1) / 30)


def test_one_seed_gives_the_textbook_interval_for_modules_and_none_for_the_method():
    values = np.random.default_rng(0).normal(size=50)
    sources = SharedSources([[str(i)] for i in range(50)])
    half = stats.t.isf(0.025, 49) * values.std(ddof=1) / np.sqrt(50)
    for seeded in (False, True):
        found = intervals(Estimate(values.mean()[None, None], centred(values)[None, :, None], seeded), sources)
        assert np.ravel(found.modules) == pytest.approx([values.mean() - half, values.mean() + half])
        if seeded:
            assert np.isnan(found.method).all() and np.isnan(found.p).all()
        else:
            assert found.method == found.modules
            assert found.p[0] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_if_only_seeds_differ_the_interval_is_the_t_interval_of_their_mean():
    """Images have no influence, so that only the differences between seeds count."""
    values = np.array([[0.2], [0.5], [0.4]])
    found = intervals(Estimate(values, np.zeros((3, 20, 1)), True), SharedSources([[str(i)] for i in range(20)]))
    half = stats.t.isf(0.025, 2) * values.std(ddof=1) / np.sqrt(3)
    assert np.ravel(found.method) == pytest.approx([values.mean() - half, values.mean() + half])
    assert found.p[0] == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-0.3, 0.3))
def test_p_is_below_five_percent_exactly_if_the_interval_excludes_zero(seed, shift):
    rng = np.random.default_rng(seed)
    hits = rng.normal(size=(3, 40, 1)) + shift + rng.normal(0, 0.1, (3, 1, 1))
    mean = hits.mean(1)
    found = intervals(Estimate(mean, hits - mean[:, None], True), SharedSources(drawn_sources(rng, 40, 30)))
    (low,), (high,) = found.method
    assert (found.p[0] < 0.05) == (low > 0 or high < 0)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("by_source", "by_seed", "interaction"), [(0, 0, 1), (0.5, 0.05, 0.5), (0.5, 0.2, 0.5)])
def test_intervals_cover_the_true_value_as_often_as_they_should(seeds, by_source, by_seed, interaction):
    """Simulate 600 times the hits of images with one to three shared sources under several seeds.

    93 to 97 percent of the intervals for the modules, and 93 percent or more of those for the method, must contain the
    true value. The latter are conservative if seeds differ only by chance.
    """
    rng = np.random.default_rng(1)
    n, n_sources, trials, base = 800, 240, 600, 0.8
    noise = np.sqrt(1 + interaction**2)
    draws = rng.normal(size=4000) * by_seed
    of_modules, of_method = 0, 0
    for trial in range(trials):
        if trial % 20 == 0:
            names = drawn_sources(rng, n, n_sources)
            sources, count = SharedSources(names), np.array([len(own) for own in names])
            member = np.zeros((n, n_sources))
            for i, own in enumerate(names):
                member[i, np.array(own, int)] = 1
            spread = np.sqrt(count * by_source**2 + noise**2)

            def accuracy(bias, spread=spread):
                return stats.norm.cdf((base + np.asarray(bias)[:, None]) / spread).mean(1)

            truth = accuracy(draws).mean()
        shared, own = member @ rng.normal(size=n_sources) * by_source, rng.normal(size=n)
        bias = rng.normal(size=seeds) * by_seed
        latent = shared + own + interaction * rng.normal(size=(seeds, n)) + base + bias[:, None]
        hits = (latent > 0).astype(float)[..., None]
        mean = hits.mean(1)
        found = intervals(Estimate(mean, hits - mean[:, None], True), sources)
        of_modules += found.modules[0][0] <= accuracy(bias).mean() <= found.modules[1][0]
        of_method += found.method[0][0] <= truth <= found.method[1][0]
    assert 0.93 <= of_modules / trials <= 0.97
    assert 0.93 <= of_method / trials <= 0.985


def test_holm_equals_a_calculation_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


def test_holm_ignores_missing_p_values():
    found = holm(np.array([0.01, np.nan, 0.04]))
    assert found[[0, 2]].tolist() == pytest.approx([0.02, 0.04]) and np.isnan(found[1])
    assert np.isnan(holm(np.array([np.nan]))).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p):
    adjusted = holm(np.array(p))
    assert (adjusted >= np.array(p) - 1e-12).all() and (adjusted <= 1).all()
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= -1e-12).all()
