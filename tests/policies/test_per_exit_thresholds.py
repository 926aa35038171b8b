"""A threshold for every exit: costs, optimality on few images, and rates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies.conftest import COSTS

from tgems.policies.per_exit_thresholds import PathCosts, best_thresholds, descending, exits_taken, fit_thresholds
from tgems.policies.registry import POLICIES


def costs_of_confidence():
    return PathCosts.of(lambda visited: POLICIES["margin"].costs(COSTS, 5, visited))


def random_problem(seed, n=200, exits=3):
    """Scores that are correlated with rewards, which grow with depth."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=(n, 1))
    rewards = 1 / (1 + np.exp(-(ease + np.linspace(-1, 2, exits + 1) + 0.3 * rng.normal(size=(n, exits + 1)))))
    scores = rewards[:, :-1] + 0.3 * rng.normal(size=(n, exits))
    return scores, rewards


@pytest.mark.parametrize("visited", [(), (1,), (0, 2), (0, 1, 2)])
def test_costs_are_restored_from_their_parts(visited):
    for prices in (
        lambda v: POLICIES["margin"].costs(COSTS, 5, v),
        lambda v: POLICIES["tgem_bank"].costs(COSTS, 7, v),
        COSTS.at_exits,
    ):
        own = (lambda v: COSTS.at_exits(3, 2, visited=v)) if prices == COSTS.at_exits else prices
        thresholds = np.where(np.isin(range(3), visited), 0.5, np.inf)
        assert PathCosts.of(own).at_exits(thresholds) == pytest.approx(own(visited))


def objective(scores, rewards, costs, thresholds, price):
    """Mean reward less price times cost, by a loop over images."""
    total, prices = 0.0, costs.at_exits(thresholds)
    for row, worth in zip(scores, rewards, strict=True):
        taken = next((k for k, t in enumerate(thresholds) if row[k] > t), len(row))
        total += worth[taken] - price * prices[taken]
    return total / len(scores)


@pytest.mark.parametrize("seed", range(12))
def test_thresholds_are_those_of_an_exhaustive_search_or_nearly(seed):
    scores, rewards = random_problem(seed, n=7, exits=2)
    costs = PathCosts(np.array([0.3, 0.6, 1.0]), np.array([0.02, 0.02]), np.array([0.01, 0.01]))
    price = [0.1, 0.5, 2.0][seed % 3]
    tried = [[*(np.sort(scores[:, k]) - 1e-6), scores[:, k].min() - 1, np.inf] for k in range(2)]
    best = max(objective(scores, rewards, costs, np.array(t), price) for t in itertools.product(*tried))
    found = best_thresholds(scores, descending(scores), rewards, costs, price, sweeps=4)
    assert objective(scores, rewards, costs, found, price) >= best - 0.02


def test_sweeps_never_make_it_worse():
    for seed in range(8):
        scores, rewards = random_problem(seed)
        costs = costs_of_confidence()
        found = [best_thresholds(scores, descending(scores), rewards, costs, 0.5, s) for s in range(4)]
        values = [objective(scores, rewards, costs, thresholds, 0.5) for thresholds in found]
        assert (np.diff(values) >= -1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_the_rate_is_kept_and_nearly_used(seed, target):
    scores, rewards = random_problem(seed)
    costs = costs_of_confidence()
    thresholds = fit_thresholds(scores, rewards, costs, target)
    rate = costs.at_exits(thresholds)[exits_taken(scores, thresholds)].mean()
    assert target - 0.01 <= rate <= target + 1e-9


@pytest.mark.parametrize("target", [0.5, 0.7, 0.9])
def test_the_rate_is_used_even_where_every_exit_is_right(target):
    """All images could leave at once without loss; what the target leaves is spent on those that are least sure."""
    scores, rewards = random_problem(0, n=2000)
    costs = costs_of_confidence()
    thresholds = fit_thresholds(scores, np.ones_like(rewards), costs, target)
    rate = costs.at_exits(thresholds)[exits_taken(scores, thresholds)].mean()
    assert target - 0.005 <= rate <= target


def test_a_rate_that_cannot_be_reached_gives_the_cheapest():
    scores, rewards = random_problem(0)
    costs = costs_of_confidence()
    thresholds = fit_thresholds(scores, rewards, costs, 0.01)
    assert costs.at_exits(thresholds)[exits_taken(scores, thresholds)].mean() == pytest.approx(
        costs.at_exits(thresholds)[0]
    )


def test_exits_whose_visit_costs_too_much_are_not_visited():
    """The middle exit is uninformative and expensive, so that it is not visited."""
    scores, rewards = random_problem(1)
    scores[:, 1], rewards[:, 1] = np.random.default_rng(0).normal(size=200), 0.01
    costs = costs_of_confidence()
    thresholds = fit_thresholds(
        scores, rewards, PathCosts(costs.leaving, costs.per_visit * [1, 5, 1], costs.per_pass), 0.8
    )
    assert np.isinf(thresholds[1]) and np.isfinite(thresholds[[0, 2]]).any()


def test_where_a_policy_never_leaves_no_image_leaves():
    scores, rewards = random_problem(2)
    scores[:, 0] = -np.inf
    scores[::2, 1] = -np.inf
    thresholds = fit_thresholds(scores, rewards, costs_of_confidence(), 0.7)
    taken = exits_taken(scores, thresholds)
    assert not np.isnan(thresholds).any() and not (taken == 0).any() and not (taken[::2] == 1).any()


def test_on_new_images_the_mean_rate_is_the_target():
    """Choosing thresholds and exits on validation images gives no optimistic rate: 300 draws of 250 images."""
    rng = np.random.default_rng(0)
    scores, rewards = random_problem(3, n=6000)
    costs, excess = costs_of_confidence(), []
    for _ in range(60):
        order = rng.permutation(6000)
        seen, new = order[:250], order[250:]
        thresholds = fit_thresholds(scores[seen], rewards[seen], costs, 0.6)
        excess.append(costs.at_exits(thresholds)[exits_taken(scores[new], thresholds)].mean() - 0.6)
    assert abs(np.mean(excess)) < 3 * np.std(excess) / np.sqrt(len(excess)) + 0.002
