import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies.conftest import COSTS, TARGETS, random_outputs, subset
from torch.nn import functional as F

from tgems.config.run import ALL_POLICIES
from tgems.errors import UserError
from tgems.exits.bank_modules import CONFIDENCE, PRICES, break_even_price
from tgems.exits.bank_statistics import bank_features
from tgems.policies.interface import OperatingPoint, require_index_safe
from tgems.policies.reference import uniform
from tgems.policies.registry import POLICIES, find_policies

DECIDING = [name for name, policy in POLICIES.items() if not policy.mixes]
WALKED = [name for name in DECIDING if name != "tgem_bank"]


def probabilities(whole, image, exit_):
    return F.softmax(whole.scale * whole.bank.double() @ whole.embeddings[image, exit_].double(), dim=0).tolist()


def winner(whole, image, exit_):
    p = probabilities(whole, image, exit_)
    return p.index(max(p))


def gains_of_going_on(whole, image, exit_, prices):
    """Worth of going on for one image at one exit, at each price."""
    logits = whole.scale * whole.embeddings[image : image + 1, :-1] @ whole.bank.T
    once = whole.summaries[image : image + 1], bank_features(logits, whole.scale)
    same = (part.expand(len(prices), *part.shape[1:]) for part in once)
    return -whole.modules.gates["bank", None](*same, torch.tensor(prices, dtype=torch.float32))[:, exit_]


def score(name, whole, image, exit_, target):
    """The score of one image at one exit, from its definition."""
    p = sorted(probabilities(whole, image, exit_), reverse=True)
    summary, cls = whole.summaries[image : image + 1], whole.summaries[image, :, :4]
    return {
        "max_softmax": lambda: p[0],
        "entropy": lambda: sum(x * math.log(x) for x in p if x > 0) / math.log(len(p)),
        "margin": lambda: p[0] - p[1],
        "saturation": lambda: F.cosine_similarity(cls[exit_], cls[exit_ - 1], dim=0).item() if exit_ else -math.inf,
        "tgem": lambda: whole.modules.gates["image", target](summary)[0, exit_].item(),
        "lra_gate": lambda: variance_gate(whole, image, exit_, p),
        "router": lambda: whole.modules.gates["router", None](summary)[0, 0].item(),
        "learned_confidence": lambda: whole.modules.gates["confidence", None](summary)[0, exit_].item(),
    }[name.removesuffix("_raw")]()


def variance_gate(whole, image, exit_, p):
    """The gate on probability, margin and spatial variance, by numpy's own moments."""
    gates, cells = whole.modules.gates["variance", None], whole.summaries[image, exit_].reshape(5, 4)[1:].numpy()
    variance = cells.var(axis=0).mean() / (cells**2).mean()
    inputs = torch.tensor([[[p[0], p[0] - p[1], variance]]], dtype=torch.float32)
    return gates(inputs.expand(1, 3, 3))[0, exit_].item()


def naive_exit(name, whole, image, point):
    """Walk one image through the exits by the policy's rule."""
    last = COSTS.blocks[-1] - 1
    parameters = point.parameters or {}
    if name in ("full", "fixed", "fixed_raw"):
        return point.exit
    if name == "oracle":
        return next((e for e in range(last + 1) if whole.right[image, e]), 0)
    if name == "oracle_agree":
        names = [winner(whole, image, e) for e in range(last + 1)]
        return next(e for e in range(last + 1) if all(w == names[-1] for w in names[e:]))
    if name == "random":
        drawn, below = uniform(whole.seed, whole.keys[image]), 0.0
        for e in range(last + 1):
            below += parameters[f"share_{e}"]
            if drawn < below:
                return e
        return last
    if name == "patience":
        run = 0
        for e in range(1, last):
            run = run + 1 if winner(whole, image, e) == winner(whole, image, e - 1) else 0
            if run >= point.thresholds[0]:
                return e
        return last
    looked = range(last) if point.visited is None else point.visited
    for e, threshold in zip(looked, point.thresholds, strict=True):
        if score(name, whole, image, e, point.rate_target) > threshold:
            return e
    return last


def test_every_name_of_the_configuration_is_a_policy():
    assert set(ALL_POLICIES) == {*POLICIES, "shuffled"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", WALKED)
def test_decisions_equal_a_walk_of_each_image(name, seed):
    whole = random_outputs(seed, n=30)
    points = POLICIES[name].fit(whole, TARGETS)
    assert points
    for point in points:
        expected = [naive_exit(name, whole, i, point) for i in range(30)]
        assert POLICIES[name].decide(whole, point).tolist() == expected, point


def test_bank_gates_leave_above_their_break_even_price():
    """Its score falls with the price at which going on gains nothing; both are found here by bisection."""
    assert sum(map(crossings_of, range(6))) > 3


def crossings_of(seed):
    outputs = random_outputs(seed)
    price = break_even_price(
        outputs.modules.gates["bank", None], outputs.summaries, outputs.statistics.features[:, :-1], grid=400
    )
    scores = POLICIES["tgem_bank"].scores(outputs, 0.5)
    used, tried = price40(outputs), np.geomspace(*PRICES, 400)
    crossings = 0
    for i in range(12):
        for e in range(3):
            p = outputs.statistics.first[i, e].item()
            odds = math.log(max(p, 1e-12) / max(1 - p, 1e-12))
            assert scores[i, e].item() == pytest.approx(CONFIDENCE * odds - used[i, e].item(), abs=1e-6)
            gains = (gains_of_going_on(outputs, i, e, tried) > 0).tolist()
            if gains[0] and not gains[-1]:
                last = 399 - gains[::-1].index(True)
                low, high = tried[[last, last + 1]]
                assert math.log(low) - 1e-3 <= price[i, e].item() <= math.log(high) + 1e-3
                crossings += 1
    return crossings


def price40(outputs):
    return break_even_price(outputs.modules.gates["bank", None], outputs.summaries, outputs.statistics.features[:, :-1])


def test_exits_that_are_passed_over_are_never_taken_nor_paid_for(outputs):
    policy = POLICIES["margin"]
    point = OperatingPoint(0.5, visited=(1,), thresholds=(-1.0,))
    assert policy.decide(outputs, point).tolist() == [1] * 12
    every, some = policy.costs(COSTS, 5), policy.costs(COSTS, 5, (1,))
    head, product = COSTS.head[0] / COSTS.full, 5 * COSTS.embed_dim / COSTS.full
    saved = [head, head + product, 2 * head + product, 2 * (head + product)]
    assert (every - some).tolist() == pytest.approx(saved)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(DECIDING), st.integers(0, 100), st.permutations(range(12)), st.integers(1, 11))
def test_a_decision_depends_on_one_image_alone(name, seed, order, cut):
    whole, policy = random_outputs(seed), POLICIES[name]
    for point in policy.fit(whole, TARGETS):
        exits = policy.decide(whole, point)
        parts = [policy.decide(subset(whole, rows), point) for rows in (order[:cut], order[cut:])]
        assert torch.cat(parts).tolist() == exits[list(order)].tolist()


def naive_cost(name, taken, bank):
    """Cost of an image by a walk through the exits; the product at the exit taken belongs to the answer."""
    visited, passed = min(taken + 1, 3), taken
    head, product, early = COSTS.head[0], bank * COSTS.embed_dim, taken < 3
    spent = {
        "tgem": visited * COSTS.gates["image"][0] + head * early,
        "learned_confidence": visited * COSTS.gates["confidence"][0] + head * early,
        "tgem_bank": visited * (head + COSTS.gates["bank"][0]) + passed * product,
        "saturation": visited * 2 * COSTS.width + head * early,
        "saturation_raw": visited * 2 * COSTS.width + COSTS.projection * early,
        "lra_gate": visited * (head + COSTS.gates["variance"][0]) + passed * product,
        "router": COSTS.gates["router"][0] + head * early,
    }
    spent |= dict.fromkeys(("full", "fixed_raw", "hull_raw"), COSTS.projection * early)
    spent |= dict.fromkeys(("max_softmax", "entropy", "margin", "patience"), visited * head + passed * product)
    spent |= dict.fromkeys(("max_softmax_raw", "margin_raw"), visited * COSTS.projection + passed * product)
    return (COSTS.encoder[taken] + spent.get(name, head * early)) / COSTS.full


@pytest.mark.parametrize("name", list(POLICIES))
def test_costs_equal_a_walk_through_the_exits(name):
    expected = [naive_cost(name, e, 5) for e in range(4)]
    assert POLICIES[name].costs(COSTS, 5).tolist() == pytest.approx(expected)


def test_patience_appears_at_what_it_reached(outputs):
    policy, winners = POLICIES["patience"], outputs.statistics.winner.tolist()
    price = policy.costs(COSTS, 5)

    def leaves(winner, t):
        return next((e for e in range(t, 3) if len(set(winner[e - t : e + 1])) == 1), 3)

    rates = {t: price[[leaves(winner, t) for winner in winners]].mean() for t in (1, 2, 3)}
    for point in policy.fit(outputs, [0.01, 0.7, 5.0]):
        within = [r for r in rates.values() if r <= point.rate_target]
        assert rates[point.thresholds[0]] == pytest.approx(max(within) if within else min(rates.values()))


def test_random_follows_the_histogram_of_the_tgem():
    whole = random_outputs(3, n=4000)
    tgem, chance = POLICIES["tgem"], POLICIES["random"]
    for own, drawn in zip(tgem.fit(whole, TARGETS), chance.fit(whole, TARGETS), strict=True):
        expected = np.bincount(tgem.decide(whole, own), minlength=4) / 4000
        shares = np.bincount(chance.decide(whole, drawn), minlength=4) / 4000
        assert np.abs(shares - expected).max() < 5 * math.sqrt(0.25 / 4000)


def test_bank_of_one_text_is_won_at_once():
    whole = random_outputs(0, bank=1)
    assert torch.equal(whole.statistics.margin, torch.ones(12, 4).double())
    assert torch.equal(whole.statistics.entropy, torch.zeros(12, 4).double())


@pytest.mark.parametrize("name", ["tgem_bank", "lra_gate", "margin", "max_softmax", "entropy", "patience"])
def test_policies_that_need_the_texts_are_refused_for_an_index(name):
    with pytest.raises(UserError, match=f"{name}.*index is built before a query is known"):
        require_index_safe(POLICIES[name])


def test_index_safe_policies_are_not_refused():
    for name in ("tgem", "saturation", "learned_confidence", "router", "fixed", "random", "full"):
        require_index_safe(POLICIES[name])


def test_own_policies_are_found_by_file_and_class(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from tgems.policies.confidence import Margin\nclass Wide(Margin):\n    name = 'wide'\nclass Other:\n    pass\n"
    )
    assert list(find_policies(["full", f"{own}:Wide", "shuffled"])) == ["full", "wide"]
    for word, message in [
        (f"{own}:Other", "defines no policy class 'Other'"),
        (f"{own}:Missing", "defines no policy class 'Missing'"),
        ("none.py:X", "no file 'none.py'"),
        ("marginn", "is not a policy"),
    ]:
        with pytest.raises(UserError, match=message):
            find_policies([word])
    with pytest.raises(UserError, match="a second time"):
        find_policies([f"{own}:Wide", f"{own}:Wide"])
