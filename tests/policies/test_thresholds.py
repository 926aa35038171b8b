"""Fitting one threshold, and applying it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.errors import UserError
from tgems.exits.thresholds import choose_exits, fit_threshold


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(-2, 2))
def test_choose_exits_equals_a_loop(seed, threshold):
    scores = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
    assert choose_exits(scores, threshold).tolist() == [first_above(row, threshold) for row in scores.tolist()]


def first_above(scores, threshold):
    return next((i for i, score in enumerate(scores) if score > threshold), len(scores))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 1.1), st.integers(1, 30), st.booleans(), st.booleans())
def test_fitted_rate_is_the_closest_below_the_target(seed, target, n, ties, first_is_closed):
    scores = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).double()
    scores = scores.round(decimals=1) if ties else scores
    if first_is_closed:
        scores[:, 0] = -torch.inf
    costs = np.array([0.3, 0.5, 0.8, 1.0])
    threshold, rate = fit_threshold(scores, costs, target)

    def rate_at(t):
        return np.mean([costs[first_above(row, t)] for row in scores.tolist()])

    assert rate == pytest.approx(rate_at(threshold))
    values = sorted(set(scores[scores.isfinite()].flatten().tolist()))
    every = [values[0] - 1, *((a + b) / 2 for a, b in zip(values, values[1:], strict=False)), values[-1] + 1]
    reachable = [rate_at(t) for t in every]
    within = [r for r in reachable if r <= target + 1e-12]
    assert rate == pytest.approx(max(within) if within else min(reachable))
    assert math.isfinite(threshold) and threshold not in values


def test_scores_without_a_finite_one_are_refused():
    with pytest.raises(UserError, match="no exit has a finite score"):
        fit_threshold(torch.full((3, 1), -torch.inf).double(), np.array([0.5, 1.0]), 0.7)
