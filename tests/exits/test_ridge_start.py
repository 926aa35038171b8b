"""Heads that start from a ridge regression: against scikit-learn's, and what it does with few images."""

import numpy as np
import pytest
import torch
from conftest import options
from sklearn.linear_model import Ridge
from toy import toy_pairs

from tgems.exits.head_training import cross_fit, train_heads
from tgems.exits.modules import ExitHeads
from tgems.exits.ridge_start import SIZE, start_from_ridge
from tgems.exits.training_pairs import RIDGE

RATES = torch.tensor([0.25, 0.5, 0.75, 1.0])


def started(pairs, whiten, among=None, hidden=4):
    heads = ExitHeads(3, 10, hidden, 8, pairs.widths)
    pairs.prepare(heads.norm)
    start_from_ridge(heads, pairs, whiten, among)
    if whiten:
        heads.fold(pairs.whitening)
    return heads


@pytest.mark.parametrize("whiten", [True, False])
def test_heads_start_as_the_ridge_regression_of_the_last_exit(whiten):
    pairs = toy_pairs(300)
    z = started(pairs, whiten)(pairs.summaries).detach()
    for exit_ in range(3):
        u = pairs.normalised[:, exit_].double().numpy()
        ridge = RIDGE * np.trace(np.cov(u.T, bias=True)) / u.shape[1]
        expected = Ridge(alpha=ridge * len(u)).fit(u, pairs.last.numpy()).predict(u)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.allclose(z[:, exit_], expected, atol=1e-4)


def test_weights_have_the_size_that_suits_the_learning_rate():
    heads = ExitHeads(3, 10, 4, 8)
    start_from_ridge(heads, toy_pairs(300), whiten=True)
    assert torch.allclose(heads.linear.weight.square().mean((1, 2)).sqrt(), torch.tensor(SIZE), rtol=1e-4)


def test_a_half_knows_nothing_of_the_other_half_s_embeddings():
    pairs, other = toy_pairs(64), toy_pairs(64)
    other.last[32:] = -other.last[32:]
    first = torch.arange(32)
    a, b = started(pairs, True, first), started(other, True, first)
    assert torch.equal(a.linear.weight, b.linear.weight) and torch.equal(a.down.bias, b.down.bias)
    assert not torch.allclose(started(pairs, True).linear.weight, started(other, True).linear.weight)


@pytest.mark.parametrize("hidden", [0, 4])
def test_two_images_can_be_trained_on(hidden):
    pairs = toy_pairs(2)
    heads, _ = train_heads(pairs, RATES, options("heads", passes=2, hidden=hidden, start="ridge"), 0)
    assert heads(pairs.summaries).isfinite().all()


def test_few_steps_on_few_images_are_better_from_the_regression_than_from_random_weights():
    pairs = toy_pairs(2_000)
    rows = torch.arange(60)
    chosen = {"passes": 4, "fold_passes": 4, "batch_size": 32, "hidden": 16}
    found = {}
    for start in ("random", "ridge"):
        heads, _ = train_heads(pairs, RATES, options("heads", start=start, **chosen), 0, rows)
        z = heads(pairs.summaries[60:]).detach()
        found[start] = (z * pairs.last[60:, None]).sum(-1).mean()
    assert found["ridge"] > found["random"] + 0.05


def test_cross_fitted_heads_start_from_it_too():
    pairs = toy_pairs(64)
    folds, unseen_by = cross_fit(pairs, RATES, options("heads", passes=1, fold_passes=1, hidden=4, start="ridge"), 0)
    plain, _ = cross_fit(pairs, RATES, options("heads", passes=1, fold_passes=1, hidden=4), 0)
    assert not torch.allclose(folds[0].linear.weight, plain[0].linear.weight) and unseen_by.unique().tolist() == [0, 1]
