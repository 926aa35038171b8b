"""Operating points from expensive to cheap: their order, their rates, and what a naive search finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies.conftest import COSTS, TARGETS, random_outputs

from tgems.exits.thresholds import choose_exits, threshold_path
from tgems.policies.careful_path import careful_path
from tgems.policies.per_exit_thresholds import PathCosts, exits_taken, path_of_prices
from tgems.policies.registry import POLICIES

WITH_PATH = [name for name, policy in POLICIES.items() if policy.runs]


def rates_of(policy, outputs, points):
    prices = [policy.costs(outputs.costs, len(outputs.bank), point.visited) for point in points]
    return [float(p[policy.decide(outputs, point)].mean()) for p, point in zip(prices, points, strict=True)]


@pytest.mark.parametrize("name", WITH_PATH)
def test_a_path_leads_from_expensive_to_cheap(name):
    outputs, policy = random_outputs(0, n=60), POLICIES[name]
    points = policy.path(outputs, TARGETS)
    rates = rates_of(policy, outputs, points)
    # Here patience costs more than the encoder, whatever it waits for.
    assert len(points) >= (0 if name == "patience" else 3) and len(set(points)) == len(points)
    assert rates == sorted(rates, reverse=True)
    if policy.adaptive:
        assert max(rates, default=0) < 1 and policy.path(outputs, TARGETS) == points


@pytest.mark.parametrize("name", [n for n, p in POLICIES.items() if not p.runs])
def test_what_does_not_decide_by_the_image_has_no_path(name):
    assert POLICIES[name].path(random_outputs(0), TARGETS) == []


@pytest.mark.parametrize("name", WITH_PATH)
def test_no_label_is_read(name):
    one, other = random_outputs(3, n=40), random_outputs(3, n=40)
    other.right[:] = ~other.right
    assert POLICIES[name].path(one, TARGETS) == POLICIES[name].path(other, TARGETS)


def test_each_point_has_the_gates_whose_target_is_nearest():
    outputs, policy = random_outputs(1, n=200), POLICIES["tgem"]
    points = policy.path(outputs, TARGETS)
    for point, rate in zip(points, rates_of(policy, outputs, points), strict=True):
        assert point.rate_target == min(TARGETS, key=lambda target: abs(target - rate))
    assert {point.rate_target for point in points} == set(TARGETS)
    assert {point.rate_target for point in POLICIES["learned_confidence"].path(outputs, TARGETS)} == {TARGETS[0]}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([None, 1, 0]))
def test_common_thresholds_are_about_evenly_spaced_in_rate(seed, decimals):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(300, 3))
    scores = torch.from_numpy(scores if decimals is None else scores.round(decimals))
    costs = np.array([0.2, 0.4, 0.75, 1.0])
    found = threshold_path(scores, costs, 20)
    rates = np.array([costs[choose_exits(scores, t).numpy()].mean() for t in found])
    assert (np.diff(found) < 0).all() and (np.diff(rates) < 0).all() and rates.max() <= 1
    if decimals is None:
        assert len(found) == 20 and np.abs(np.diff(rates)).max() < 1.3 * 0.8 / 20 and rates.min() < 0.21
    assert not set(found) & set(scores.cummax(1).values.flatten().tolist()), "thresholds lie between scores"


def test_equal_scores_leave_nothing_to_choose():
    assert threshold_path(torch.zeros(5, 3).double(), np.arange(1.0, 5), 10) == []
    silent = torch.full((5, 3), -torch.inf).double()
    assert threshold_path(silent, np.arange(1.0, 5), 10) == []


def test_thresholds_of_prices_are_about_evenly_spaced_in_rate():
    rng = np.random.default_rng(0)
    ease = rng.normal(size=(500, 1))
    rewards = 1 / (1 + np.exp(-(ease + np.linspace(-1, 2, 4) + 0.3 * rng.normal(size=(500, 4)))))
    scores = rewards[:, :-1] + 0.1 * rng.normal(size=(500, 3))
    costs = PathCosts.of(lambda visited: POLICIES["margin"].costs(COSTS, 5, visited))
    found = path_of_prices(scores, rewards, costs, 30)
    rates = np.array([costs.at_exits(t)[exits_taken(scores, t)].mean() for t in found])
    assert len(found) == 30 and rates[0] > 0.99 and rates[-1] < 0.3
    assert -np.diff(rates).min() < 0.05, "no wide gap is left"


@pytest.mark.parametrize("name", [n for n in WITH_PATH if POLICIES[n].adaptive])
def test_a_careful_path_is_the_path_with_points_ahead_of_it(name):
    outputs, policy = random_outputs(0, n=60), POLICIES[name]
    path, careful = policy.path(outputs, TARGETS[:1]), careful_path(policy, outputs, TARGETS[0])
    rates = rates_of(policy, outputs, careful)
    assert careful[len(careful) - len(path) :] == path and len(set(careful)) == len(careful)
    assert rates == sorted(rates, reverse=True) and max(rates, default=0) < 1
    assert policy.per_exit or careful == path


def test_a_careful_path_begins_near_the_encoder_where_the_fit_sees_no_loss():
    """Embeddings are the same at all exits, so that leaving at the first costs nothing on these images."""
    outputs, policy = random_outputs(0, n=100), POLICIES["margin"]
    outputs.embeddings[:] = outputs.embeddings[:, -1:]
    path, careful = policy.path(outputs, TARGETS), careful_path(policy, outputs, TARGETS[0])
    rates = rates_of(policy, outputs, careful)
    assert rates_of(policy, outputs, path)[0] < 0.5 and len(careful) - len(path) >= 8
    assert 0.9 < rates[0] < 1 and max(-np.diff(rates[: len(careful) - len(path) + 1])) < 0.2
    exits = torch.stack([policy.decide(outputs, point) for point in careful[: len(careful) - len(path) + 1]])
    assert (exits.diff(dim=0) <= 0).all(), "no image stays longer at a cheaper point"


def test_a_selection_knows_what_was_computed_of_it():
    whole = random_outputs(2, n=30)
    for name in ("margin", "tgem_bank", "router"):
        POLICIES[name].scores(whole, 0.5)
    rows = torch.tensor([4, 7, 1, 22])
    some, fresh = whole.select(rows), random_outputs(2, n=30).select(rows)
    assert some.keys == [whole.keys[i] for i in rows] and len(some) == 4
    assert torch.allclose(some.last_exits_view, whole.last_exits_view[rows])
    for name in ("margin", "tgem_bank", "router"):
        own = POLICIES[name].scores(some, 0.5)
        assert torch.equal(own, whole.scores[name, 0.5][rows])
        assert torch.allclose(own, POLICIES[name].scores(fresh, 0.5), atol=1e-6)
