"""A held rate: bounds for any stream, convergence on random ones, and thresholds that move together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.policies.online import RANGE, HeldRate, largest_debt, moved_thresholds, score_spread, unreachable
from tgems.policies.per_exit_thresholds import exits_taken

PRICES = np.array([0.2, 0.5, 0.7, 1.05])
VISITED = np.array([0.3, np.inf, -0.4])  # the second exit is not visited


def stream(scores, target, batch=1, thresholds=VISITED, spread=1.0, prices=PRICES):
    """Exits, rates and every state of a stream of scores `[n, E-1]`, some images at a time."""
    state = HeldRate.start(target)
    exits, states = [], [state]
    for start in range(0, len(scores), batch):
        now = moved_thresholds(thresholds, spread, state.offset)
        taken = exits_taken(scores[start : start + batch], now)
        state = state.after(prices[taken])
        exits += taken.tolist()
        states.append(state)
    return np.array(exits), prices[np.array(exits)], states


@st.composite
def hostile_scores(draw):
    """Stretches of images with arbitrary finite scores, in which all images leave, or none, or some."""
    finite = st.floats(-1e300, 1e300)
    parts = draw(st.lists(st.tuples(st.integers(1, 400), finite, finite, st.booleans()), min_size=1, max_size=5))
    stretches = []
    for n, first, third, alternates in parts:
        rows = np.full((n, 3), [first, 1e300, third])
        rows[:, [0, 2]] *= (-1.0) ** np.arange(n)[:, None] if alternates else 1
        stretches.append(rows)
    return np.concatenate(stretches)


@settings(max_examples=60, deadline=None)
@given(hostile_scores(), st.floats(0.2, 1.05), st.integers(1, 70), st.floats(0, 1e6))
def test_no_stream_of_finite_scores_can_run_up_a_larger_debt(scores, target, batch, spread):
    bound = largest_debt(target, 0.2, 1.05, batch)
    exits, rates, states = stream(scores, target, batch, spread=spread)
    debts = np.array([state.debt for state in states])
    assert np.abs(debts).max() <= bound + 1e-9
    assert abs(rates.mean() - target) <= bound / len(rates) + 1e-9
    assert 1 not in exits, "an exit that is not visited stays so"


def test_a_hostile_stream_runs_up_a_debt_that_is_paid_back():
    """Images that never leave until the thresholds are at the end of their range, and then all at once."""
    scores = np.full((3000, 3), -1e300)
    _, rates, states = stream(scores, 0.6)
    debts = np.array([state.debt for state in states])
    assert 0.2 * largest_debt(0.6, 0.2, 1.05) < debts.max() <= largest_debt(0.6, 0.2, 1.05)
    assert abs(rates.mean() - 0.6) < 0.01 and set(rates) == {0.2, 1.05}


@pytest.mark.parametrize("target", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("away", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_mean_rate_is_within_a_hundredth_after_500_images(target, away, batch):
    """Scores are like those that thresholds were fitted on, or three standard deviations lower or higher."""
    scores = away + np.random.default_rng(round(100 * target)).normal(size=(1000, 3))
    exits, rates, _ = stream(scores, target, batch)
    so_far = rates.cumsum() / np.arange(1, 1001)
    assert np.abs(so_far[499:] - target).max() <= 0.01
    assert len(set(exits)) == 3, "images leave at every visited exit"


def test_other_images_in_the_middle_of_a_stream_are_followed():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=(700, 3)), 4 + rng.normal(size=(700, 3)), -2 + rng.normal(size=(700, 3))])
    _, rates, _ = stream(scores, 0.5)
    assert [abs(rates[:n].mean() - 0.5) < 0.01 for n in (700, 1400, 2100)] == [True] * 3
    assert abs(rates[900:1400].mean() - 0.5) < 0.01, "not only the mean since the beginning"


@given(st.lists(st.lists(st.floats(0, 2), max_size=9), min_size=1, max_size=9), st.floats(0.1, 1))
def test_the_rate_is_the_mean_of_what_was_seen_whatever_the_batches(batches, target):
    state = HeldRate.start(target)
    for batch in batches:
        state = state.after(np.array(batch))
    rates = [rate for batch in batches for rate in batch]
    assert state.images == len(rates)
    assert np.isnan(state.rate) if not rates else state.rate == pytest.approx(np.mean(rates), abs=1e-9)


def test_streams_side_by_side_are_the_streams_one_by_one():
    rng = np.random.default_rng(0)
    rates, targets = rng.uniform(0, 1, (4, 300)), np.array([0.2, 0.4, 0.6, 0.8])
    together = HeldRate.start(targets)
    alone = [HeldRate.start(t) for t in targets]
    for i in range(0, 300, 3):
        together = together.after(rates[:, i : i + 3])
        alone = [state.after(own[i : i + 3]) for state, own in zip(alone, rates, strict=True)]
    assert together.offset.tolist() == [state.offset for state in alone]
    assert together.debt.tolist() == [state.debt for state in alone]


@given(st.floats(-7, 7), st.floats(-7, 7), st.floats(0, 10))
def test_thresholds_move_together_and_in_order(one, other, spread):
    low, high = (moved_thresholds(VISITED, spread, offset) for offset in sorted((one, other)))
    assert (low <= high).all() and np.isposinf(low[1])
    assert moved_thresholds(VISITED, spread, 0.0).tolist() == VISITED.tolist()


def test_at_the_ends_of_the_range_all_images_leave_at_the_first_open_exit_or_none():
    scores = np.random.default_rng(0).normal(size=(50, 3)) * 1e200
    assert set(exits_taken(scores, moved_thresholds(VISITED, 1.0, -RANGE))) == {0}
    assert set(exits_taken(scores, moved_thresholds(VISITED, 1.0, RANGE))) == {3}


def test_the_spread_is_of_finite_scores():
    scores = np.array([[-np.inf, 1.0], [-np.inf, 3.0]])
    assert score_spread(scores) == 1.0
    assert score_spread(np.empty((5, 0))) == score_spread(scores[:, :1]) == 0


@pytest.mark.parametrize("rate", [0.1, 1.1, -1.0, float("nan"), float("inf")])
def test_a_rate_that_no_thresholds_reach_is_named(rate):
    assert unreachable(rate, 0.2, 1.05).startswith(f"rate {rate:g} cannot be held: images cost from 0.2000 to 1.0500")
    assert unreachable(0.2, 0.2, 1.05) == unreachable(1.05, 0.2, 1.05) == ""
