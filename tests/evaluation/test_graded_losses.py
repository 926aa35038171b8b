"""Certificates for losses between 0 and 1: they hold on hostile pools, and take fewer images than the bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.evaluation.graded_losses import candidates, certified_point, enough_graded_images
from tgems.evaluation.risk_control import allowed_losses, certified_points

LEVEL, POINTS = 0.05, 12


def tenths(rng, means, rows):
    """Losses in tenths `[rows, J]`: ten draws for each image, with a share of their own."""
    ease = rng.normal(0, 0.08, (rows, 1))
    return rng.binomial(10, (means + ease).clip(0, 1)) / 10


def two_values(rng, means, rows):
    return (rng.random((rows, 1)) < means).astype(float)


def heavy_at_one(rng, means, rows):
    """Most images lose a little, and a few lose everything."""
    return np.where(rng.random((rows, len(means))) < 0.02, 1.0, (means - 0.02).clip(0, 1))


def turning(rng, means, rows):
    """Other images lose at every point, so that losses rise and fall along the path."""
    return (rng.random((rows, len(means))) < means).astype(float) * rng.choice([0.5, 1.0], (rows, 1))


POOLS = {pool.__name__: pool for pool in (tenths, two_values, heavy_at_one, turning)}


@pytest.mark.parametrize("hopeful", [False, True])
@pytest.mark.parametrize(("n", "upcoming"), [(150, 150), (60, 400), (300, 60)])
@pytest.mark.parametrize("name", POOLS)
def test_promises_hold_where_every_point_is_at_the_tolerance(name, n, upcoming, hopeful):
    """Random divisions of pools whose mean is the tolerance at all points, expected rightly or to be far less."""
    rng, tolerance, draws = np.random.default_rng(n), 0.3, 300
    pool = POOLS[name](rng, np.linspace(0.29, 0.33, POINTS), n + upcoming)
    pool = (pool * (tolerance / pool.mean(0))).clip(0, 1)
    expected = POOLS[name](rng, np.linspace(0.05, 0.3, POINTS) if hopeful else np.full(POINTS, 0.2), 100)
    broken = 0
    for _ in range(draws):
        order = rng.permutation(len(pool))
        rest, after = pool[order[:n]], pool[order[n:]]
        point = certified_point(expected, lambda j, rest=rest: rest[:, j], n, tolerance, upcoming, LEVEL)
        broken += point >= 0 and after[:, point].mean() > tolerance + 1e-9
    assert broken / draws <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / draws)


def outcome(pool, n, tolerance, upcoming):
    """The point that is certified, and the one by the bound alone, from one half for each purpose."""
    expected, rest = pool[:n], pool[n:]
    point = certified_point(expected, lambda j: rest[:, j], n, tolerance, upcoming, LEVEL)
    return point, certified_points(rest, allowed_losses(n, tolerance, upcoming, LEVEL, False)) - 1


@pytest.mark.parametrize("n", [100, 500])
def test_bets_reach_further_than_the_bound_on_tenths(n):
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        found.append(outcome(tenths(rng, np.linspace(0.02, 0.6, 60), 2 * n), n, 0.4, 1000))
    bets, bound = np.mean(found, 0)
    assert bets - bound > 5, "of 60 points, which are a hundredth of loss apart"


@pytest.mark.parametrize("tolerance", [0.05, 0.2])
def test_where_the_bound_reaches_further_it_is_used(tolerance):
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        found.append(outcome(two_values(rng, np.linspace(0.001, 0.3, 60), 400), 200, tolerance, 1000))
    found = np.array(found)
    assert found[:, 0].mean() >= found[:, 1].mean() - 2 and (found[:, 0] == found[:, 1]).mean() > 0.3


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(0.02, 0.9), st.integers(1, 2000), st.integers(0, 15), st.integers(10, 80))
def test_what_is_certified_is_a_point_and_loses_less_than_is_tolerated(seed, tolerance, upcoming, points, n):
    rng = np.random.default_rng(seed)
    pool = tenths(rng, np.linspace(0.0, 0.8, points), 2 * n)
    expected, rest = pool[:n], pool[n:]
    point = certified_point(expected, lambda j: rest[:, j], n, tolerance, upcoming, LEVEL)
    assert -1 <= point < max(points, 1) and point == certified_point(
        expected, lambda j: rest[:, j], n, tolerance, upcoming, LEVEL
    )
    if point >= 0:
        assert rest[:, point].mean() < tolerance + 0.05
    chosen, likely = candidates(expected, n, tolerance, upcoming, LEVEL)
    assert chosen == sorted(set(chosen)) and len(chosen) <= 5 and (likely in chosen or likely == -1)
    nothing = certified_point(expected, lambda j: np.ones(n), n, tolerance, upcoming, LEVEL)
    assert nothing == -1, "images that lose everything certify nothing"


@pytest.mark.parametrize(("tolerance", "mean"), [(0.3, 0.2), (0.1, 0.06), (0.5, 0.2)])
def test_enough_images_are_about_enough(tolerance, mean):
    rng = np.random.default_rng(2)
    enough = enough_graded_images(tenths(rng, np.full(1, mean), 5000), tolerance, 1000, LEVEL)
    shares = []
    for n in (enough // 2, 2 * enough):
        passed = [outcome(tenths(rng, np.full(1, mean), 2 * n), n, tolerance, 1000)[0] >= 0 for _ in range(40)]
        shares.append(np.mean(passed))
    assert shares[0] < 0.6 and shares[1] > 0.8


def test_no_number_of_images_is_enough_for_losses_above_the_tolerance():
    assert enough_graded_images(np.full(100, 0.3), 0.3, 1000, LEVEL) is None
    noisy = np.tile([0.0, 0.58], 50)
    assert enough_graded_images(noisy, 0.3, 100, LEVEL, most=10**4) is None, (
        "the next 100 images may lose more by chance"
    )
    assert enough_graded_images(np.zeros(50), 0.3, 1000, LEVEL) == 9
