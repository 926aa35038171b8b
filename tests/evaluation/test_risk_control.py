"""Promises about the next images: exact probabilities, and how often they are broken."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tgems.evaluation.risk_control import (
    allowed_losses,
    binomial,
    certified_points,
    enough_images,
    hypergeometric,
    p_value,
)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1))
def test_hypergeometric_is_scipy_s(total, marked, drawn):
    marked, drawn = round(marked * total), round(drawn * total)
    expected = stats.hypergeom.pmf(np.arange(drawn + 1), total, marked, drawn)
    assert hypergeometric(total, marked, drawn) == pytest.approx(expected, rel=1e-8, abs=1e-13)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(1e-3, 0.999))
def test_binomial_is_scipy_s(n, share):
    expected = stats.binom.pmf(np.arange(n + 1), n, share)
    assert binomial(n, share) == pytest.approx(expected, rel=1e-8, abs=1e-13)


def test_the_expected_loss_has_clopper_and_pearson_s_bound():
    for n, losses, level in ((50, 0, 0.05), (200, 3, 0.05), (1000, 20, 0.1)):
        upper = stats.beta.ppf(1 - level, losses + 1, n - losses)
        assert p_value(losses, n, upper, None) == pytest.approx(level)
        assert p_value(losses, n, upper, 10**6) == pytest.approx(level, rel=0.02), "the limit for many images"


def worst_chance(n, upcoming, tolerance, allowed):
    """Largest probability over all numbers of losses in the pool of at most `allowed` in the sample and a broken
    promise, by going through all samples."""
    chances = []
    for total in range(n + upcoming + 1):
        pool = np.arange(n + upcoming) < total
        samples = [list(rows) for rows in combinations(range(n + upcoming), n)]
        sums = np.array([pool[rows].sum() for rows in samples])
        broken = (sums <= allowed) & (total - sums > tolerance * upcoming + 1e-9)
        chances.append(broken.mean())
    return max(chances)


@pytest.mark.parametrize(("n", "upcoming"), [(6, 4), (5, 5), (4, 6)])
@pytest.mark.parametrize("tolerance", [0.2, 0.4, 0.5])
def test_the_probability_of_a_broken_promise_is_exact(n, upcoming, tolerance):
    for losses in range(n):
        assert p_value(losses, n, tolerance, upcoming) == pytest.approx(worst_chance(n, upcoming, tolerance, losses))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.1, 0.3]), st.sampled_from([None, 40, 150]))
def test_bounds_of_any_losses_hold_and_are_no_tighter_than_those_of_binary_ones(seed, tolerance, upcoming):
    n = int(np.random.default_rng(seed).integers(20, 200))
    values = [p_value(k, n, tolerance, upcoming, binary=False) for k in range(n + 1)]
    exact = [p_value(k, n, tolerance, upcoming) for k in range(n + 1)]
    assert all(any_ >= one - 1e-12 for any_, one in zip(values, exact, strict=True))
    assert (np.diff(values) >= -1e-9).all() and (np.diff(exact) >= -1e-9).all(), "p values grow with the losses"
    assert allowed_losses(n, tolerance, upcoming, 0.05, False) <= allowed_losses(n, tolerance, upcoming, 0.05)


def promise_broken(pool, n, tolerance, binary, rng, draws=2000):
    """Share of random splits of a pool of losses `[M, J]` in which the chosen point breaks its promise."""
    upcoming = len(pool) - n
    allowed = allowed_losses(n, tolerance, upcoming, 0.05, binary)
    broken = 0
    for _ in range(draws):
        order = rng.permutation(len(pool))
        points = certified_points(pool[order[:n]], allowed)
        broken += points > 0 and pool[order[n:], points - 1].mean() > tolerance + 1e-9
    return broken / draws


@pytest.mark.parametrize(("n", "upcoming"), [(300, 300), (200, 800), (600, 100)])
def test_the_promise_holds_where_losses_rise_and_fall_along_the_path(n, upcoming):
    """Any order of points, 40 tests in a row: the worst is near 5 percent, and never above it."""
    rng, found = np.random.default_rng(n), []
    for _ in range(3):
        ease = rng.random((n + upcoming, 1))
        shares = np.linspace(0, 0.2, 40) + 0.02 * rng.normal(size=40)
        pool = (ease < shares).astype(float)
        found.append(promise_broken(pool, n, 0.1, True, rng, 1000))
    assert max(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert max(found) >= 0.01, "the bound is not idle"


def test_the_bound_is_tight_where_the_pool_is_the_worst():
    rng, n = np.random.default_rng(0), 200
    allowed = allowed_losses(n, 0.1, n, 0.05)
    pool = (np.arange(2 * n) < allowed + 21).astype(float)[:, None]
    broken = promise_broken(pool, n, 0.1, True, rng, 20_000)
    assert broken == pytest.approx(p_value(allowed, n, 0.1, n), abs=0.005) and 0.02 < broken <= 0.055


@pytest.mark.parametrize("high", [0.3, 1.0])
def test_the_promise_holds_for_shares_of_neighbours(high):
    rng, n = np.random.default_rng(1), 200
    pool = rng.choice([0.0, high], size=(2 * n, 1), p=[1 - 0.1 / high, 0.1 / high]) * np.linspace(0.8, 1.2, 9)
    assert promise_broken(pool.clip(0, 1), n, 0.1, False, rng) <= 0.05


def test_points_count_up_to_the_first_that_fails():
    losses = np.array([[0, 1, 0, 0], [0, 0, 1, 1.0], [0, 0, 0, 0]])
    assert [certified_points(losses, allowed) for allowed in (-1, 0, 1, 2)] == [0, 1, 2, 4]
    assert certified_points(np.zeros((3, 5)), 0) == 5 and certified_points(np.zeros((3, 0)), 0) == 0


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("tolerance", "upcoming"), [(0.02, 1000), (0.05, None), (0.2, 50)])
def test_enough_images_are_enough_and_one_less_is_not(tolerance, upcoming, binary):
    found = enough_images(0.0, tolerance, upcoming, 0.05, binary)
    assert allowed_losses(found, tolerance, upcoming, 0.05, binary) >= 0
    assert allowed_losses(found - 1, tolerance, upcoming, 0.05, binary) == -1
    assert enough_images(tolerance, tolerance, upcoming, 0.05, binary) is None
    assert enough_images(tolerance / 2, tolerance, upcoming, 0.05, binary, most=10**5) != found
