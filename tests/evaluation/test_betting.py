"""Bets against broken promises: by a naive reference, exactly on small pools, and how much they see."""

from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.evaluation.betting import best_bet, log_evidence

LOSSES = st.lists(st.integers(0, 10).map(lambda k: k / 10), min_size=1, max_size=40).map(np.array)


def naive_evidence(losses, tolerance, upcoming, bet):
    """Play one image after another, as if the others and the next images lost as much as is tolerated."""
    wealth, highest = 1.0, 0.0
    for i, loss in enumerate(losses):
        left = len(losses) - i + upcoming
        mean = (sum(losses[i:]) + tolerance * upcoming) / left
        stake = min(bet * upcoming / left, 0.95 / (1 - mean)) if mean < 1 else bet * upcoming / left
        wealth *= 1 + stake * (mean - loss)
        highest = max(highest, wealth)
    return highest


@settings(deadline=None)
@given(LOSSES, st.floats(0.01, 0.99), st.integers(1, 1000), st.floats(0.01, 50))
def test_evidence_is_the_wealth_of_a_gambler(losses, tolerance, upcoming, bet):
    expected = naive_evidence(losses, tolerance, upcoming, bet)
    assert np.exp(log_evidence(losses, tolerance, upcoming, bet)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "upcoming"), [(4, 2), (3, 3), (2, 4)])
@pytest.mark.parametrize("bet", [0.3, 1.0, 3.0])
def test_evidence_against_a_promise_that_is_broken_is_rare_in_every_pool(n, upcoming, bet):
    """All pools of losses 0, .5 and 1 in all orders: exactly, with no allowance."""
    for tolerance in (0.2, 0.4):
        for pool in combinations_with_replacement((0.0, 0.5, 1.0), n + upcoming):
            orders = np.array(list(permutations(pool)))
            broken = orders[orders[:, n:].mean(1) > tolerance + 1e-9]
            evidence = np.sort([log_evidence(row[:n], tolerance, upcoming, bet) for row in np.unique(broken, axis=0)])
            weights = len(orders) // len(np.unique(orders, axis=0))
            for rank, value in enumerate(evidence[::-1], 1):
                assert rank * weights / len(orders) <= np.exp(-value) + 1e-9


@given(st.floats(0.05, 0.95), st.floats(0, 1), st.integers(1, 200), st.integers(1, 1000), st.floats(0.1, 20))
def test_losses_that_are_all_too_large_are_no_evidence(tolerance, above, n, upcoming, bet):
    losses = np.full(n, tolerance + above * (1 - tolerance))
    assert log_evidence(losses, tolerance, upcoming, bet) <= 1e-9


@pytest.mark.parametrize(("n", "upcoming"), [(200, 1000), (1000, 1000), (1000, 100)])
@pytest.mark.parametrize("spread", [0.1, 0.2])
def test_losses_a_margin_below_the_tolerance_are_enough_evidence(n, upcoming, spread):
    """About half of the time at the margin itself, rarely at half of it, and nearly always at twice as much."""
    rng, level, found = np.random.default_rng(n), 0.05, []
    for times in (0.5, 1.0, 2.0):
        bet = best_bet(spread, n, upcoming, level)
        mean = 0.5 - times * bet * spread**2
        samples = mean + spread * rng.choice([-1.0, 1.0], (200, n))
        found.append(np.mean([log_evidence(row, 0.5, upcoming, bet) >= np.log(1 / level) for row in samples]))
    assert found[0] < 0.35 and 0.4 < found[1] < 0.95 and found[2] > 0.97
