import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tgems.exits.modules import BankGates, ExitHeads, ImageGates
from tgems.exits.policies import POLICIES, ExitModules, ExitOutputs, choose_exits, fit_threshold
from tgems.profiling.costs import ExitCosts

COSTS = ExitCosts((1, 2, 3, 4), (100, 200, 300, 410), 7, 3, 5, 2, 6)


def outputs(seed: int, n: int = 12, bank: int = 5) -> ExitOutputs:
    """Random modules and embeddings of four exits."""
    torch.manual_seed(seed)
    image, text = ImageGates(3, 8, 4), BankGates(3, 8, 4)
    for gates in (image, text):
        nn.init.normal_(gates.down.weight)
    modules = ExitModules(ExitHeads(3, 8, 4, 6), {0.5: image}, text)
    z = F.normalize(torch.randn(n, 4, 6), dim=-1)
    texts = F.normalize(torch.randn(bank, 6), dim=-1)
    return ExitOutputs(torch.randn(n, 3, 8), z, texts, 10.0, COSTS, modules)


def subset(whole: ExitOutputs, rows) -> ExitOutputs:
    """Some images of a batch."""
    return ExitOutputs(
        whole.summaries[rows], whole.embeddings[rows], whole.bank, whole.scale, whole.costs, whole.modules
    )


def naive_exit(scores, threshold):
    for index, score in enumerate(scores):
        if score > threshold:
            return index
    return len(scores)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(-2, 2))
def test_choose_exits_equals_a_loop(seed, threshold):
    scores = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
    assert choose_exits(scores, threshold).tolist() == [naive_exit(row, threshold) for row in scores.tolist()]


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_decision_depends_on_one_image_alone(name):
    whole = outputs(0)
    policy = POLICIES[name]
    scores = policy.scores(whole, 0.5)
    order = torch.randperm(12)
    assert torch.allclose(policy.scores(subset(whole, order), 0.5), scores[order], atol=1e-6)
    alone = torch.cat([policy.scores(subset(whole, slice(i, i + 1)), 0.5) for i in range(12)])
    assert torch.allclose(alone, scores, atol=1e-6)


def test_margin_equals_its_definition():
    whole = outputs(1)
    scores = POLICIES["margin"].scores(whole, 0.5)
    for i in range(12):
        for e in range(3):
            p = sorted(F.softmax(10.0 * whole.bank @ whole.embeddings[i, e], dim=0).tolist(), reverse=True)
            assert scores[i, e].item() == pytest.approx(p[0] - p[1], abs=1e-5)


def test_slope_rule_divides_by_what_remains():
    whole = outputs(2)
    scores = POLICIES["tgem_bank"].scores(whole, 0.5)
    rates = COSTS.bank_guided(5)
    gain = scores * torch.from_numpy(rates[-1] - rates[:-1])
    assert (gain.abs() < 1).all(), "a difference of two probabilities"


def naive_cost(name, taken, bank):
    """Count what an image pays by walking the exits it visits."""
    encoder = COSTS.encoder[taken]
    visited = [e for e in range(3) if e <= taken]
    head, product = COSTS.head, bank * COSTS.embed_dim
    if name == "tgem":
        spent = len(visited) * COSTS.image_gate + (head if taken < 3 else 0)
    elif name == "margin":
        spent = len(visited) * (head + product)
    else:
        spent = len(visited) * (head + product + COSTS.bank_gate)
    return (encoder + spent) / COSTS.full


@pytest.mark.parametrize("name", list(POLICIES))
def test_costs_equal_a_walk_through_the_exits(name):
    expected = [naive_cost(name, e, 5) for e in range(4)]
    assert POLICIES[name].costs(COSTS, 5).tolist() == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 1.1), st.integers(1, 30), st.booleans())
def test_fitted_rate_is_the_closest_below_the_target(seed, target, n, ties):
    scores = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).double()
    scores = scores.round(decimals=1) if ties else scores
    costs = np.array([0.3, 0.5, 0.8, 1.0])
    threshold, rate = fit_threshold(scores, costs, target)

    def rate_at(t):
        return np.mean([costs[naive_exit(row, t)] for row in scores.tolist()])

    assert rate == pytest.approx(rate_at(threshold))
    values = sorted(set(scores.flatten().tolist()))
    every = [values[0] - 1, *((a + b) / 2 for a, b in zip(values, values[1:], strict=False)), values[-1] + 1]
    reachable = [rate_at(t) for t in every]
    within = [r for r in reachable if r <= target + 1e-12]
    assert rate == pytest.approx(max(within) if within else min(reachable))
    assert threshold not in values
