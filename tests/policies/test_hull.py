import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies.conftest import COSTS, TARGETS, random_outputs, subset

from tgems.policies.reference import concave_hull, mix_for_target
from tgems.policies.registry import POLICIES


def test_hull_is_concave_and_above_every_point():
    rates = np.array([0.1, 0.3, 0.5, 0.7, 1.0])
    values = np.array([0.2, 0.5, 0.4, 0.8, 0.9])
    hull = concave_hull(rates, values)
    assert hull == [0, 1, 3, 4]
    assert (np.interp(rates, rates[hull], values[hull]) >= values - 1e-12).all()


@pytest.mark.parametrize(("target", "mix"), [(0.2, (0, 1, 0.5)), (0.05, (0, 1, 0.0)), (1.0, (3, 4, 1.0))])
def test_hull_meets_its_target_by_mixing_two_exits(target, mix):
    low, high, weight = mix_for_target(np.array([0.1, 0.3, 0.5, 0.7, 1.0]), [0, 1, 3, 4], target)
    assert (low, high) == mix[:2] and weight == pytest.approx(mix[2])


def test_hull_on_outputs_meets_the_target(outputs):
    hull = POLICIES["hull"]
    price = hull.costs(COSTS, 5)
    best = price[outputs.right.double().mean(0).argmax()]
    for point in hull.fit(outputs, TARGETS):
        assert hull.shares(point, 4) @ price == pytest.approx(min(point.rate_target, best))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.1, 1.0))
def test_hull_never_mixes_towards_a_worse_exit(values, target):
    """Computation that would make the answer worse stays unused."""
    rates, values = np.linspace(0.1, 1.0, len(values)), np.array(values)
    vertices = concave_hull(rates, values)
    low, high, weight = mix_for_target(rates, vertices, target)
    assert values[low] <= values[high] and (np.diff(values[vertices]) > 0).all()
    mixed = (1 - weight) * values[low] + weight * values[high]
    cheaper = values[rates <= target + 1e-12]
    assert mixed >= cheaper.max() - 1e-9, "as good as any single exit within the target"


def test_hull_of_an_index_is_the_best_mix_on_validation():
    """The middle exit is bad in a gallery, so that neither its neighbours' mix nor it alone is taken."""
    quality = torch.tensor([0.5, 0.2, 0.8, 0.9])
    whole = dataclasses.replace(random_outputs(0, n=400), text_recall=lambda exits: quality[exits].mean().item())
    hull, price = POLICIES["hull"], POLICIES["hull"].costs(COSTS, 5)
    target = float(price[1] + price[2]) / 2
    (point,) = hull.fit(whole, [target])
    exits = hull.decide(whole, point)
    assert set(exits.tolist()) == {0, 2}
    assert price[exits].mean() == pytest.approx(target, abs=0.05)
    again = hull.decide(subset(whole, list(range(399, -1, -1))), point)
    assert again.flip(0).tolist() == exits.tolist(), "the draw is a function of seed and key"
