"""The model object: calibrations, caps, text banks and devices."""

from dataclasses import replace

import pytest
import torch
from runtime.conftest import RUNNABLE
from torch._subclasses import FakeTensorMode
from toy import costs_of_sizes

from tgems.errors import UserError
from tgems.exits import bank_modules
from tgems.exits.bank_modules import BankGates, ConfidenceAndVarianceGates
from tgems.exits.modules import ExitHeads, ImageGates, LookaheadGates
from tgems.policies.registry import POLICIES
from tgems.runtime.early_exit import Calibration
from tgems.runtime.live_view import ExitDecider, LiveView
from tgems.runtime.model import EarlyExitCLIP

BANK_POLICIES = [name for name in RUNNABLE if POLICIES[name].needs_bank]


def bank_of(model, words):
    """Embeddings of some texts."""
    return model.encode_text(model.tokenizer(list(words)))


def test_a_cap_holds_for_every_image(make, known):
    model = make("tgem", max_rate=0.5)
    costs, free = model.early_exit.costs, make("tgem")
    last = max(k for k in range(7) if costs.image_guided()[k] <= 0.5)
    got, open_ = (m.encode_image(known.images, return_exits=True).exits for m in (model, free))
    assert torch.equal(got, open_.clamp_max(last)) and (open_ > last).any()
    assert model.rates[got.max()] <= 0.5
    model.set_max_rate(None)
    assert torch.equal(model.encode_image(known.images, return_exits=True).exits, open_)


def test_a_cap_below_the_cheapest_exit_is_refused_and_changes_nothing(make):
    with pytest.raises(
        UserError, match=r"max_rate 0.1 is below the cheapest exit .* 0\.15\d* of the encoder; raise it"
    ):
        make("tgem", max_rate=0.1)
    model = make("fixed", max_rate=0.4)
    with pytest.raises(UserError, match="max_rate 0.3 is below"):
        model.set_max_rate(0.3)
    assert model.max_rate == 0.4 and model.last_resort == 2


def test_with_a_cap_a_large_bank_leaves_no_second_look(make, known):
    """The product at the exit that is taken belongs to the answer; that of an exit that is passed is charged."""
    model = make("margin", max_rate=0.9)
    model.set_text_bank(torch.nn.functional.normalize(torch.randn(200_000, 64), dim=1))
    first = min(model.thresholds)
    assert model.rates[first] <= 0.9 < model.rates[first + 1]
    assert set(model.encode_image(known.images[:4], return_exits=True).exits.tolist()) == {first}


def test_the_bank_outlives_other_thresholds_and_moves(make, known):
    model = make("margin")
    with pytest.raises(UserError, match="set_text_bank"):
        model.encode_image(known.images)
    model.set_text_bank(bank_of(model, ("a one", "a two")))
    rates = model.rates
    for dataset in ("digits", "scenes"):
        model.use_calibration(dataset)
        assert model.calibration == dataset and len(model.text_bank) == 2
        own = model.early_exit.calibrations[dataset]
        assert model.thresholds == dict(zip(own.visited, own.thresholds, strict=True))
    assert rates.tolist() == model.rates.tolist() and rates[-1] > model.early_exit.rates()[-1]
    assert "text_bank" in dict(model.named_buffers()) and "text_bank" not in model.state_dict()
    assert model.to("meta").text_bank.device.type == "meta"


@pytest.mark.parametrize("policy", BANK_POLICIES)
def test_a_bank_may_have_a_single_text(make, known, policy):
    model = make(policy)
    model.set_text_bank(bank_of(model, ("a one",)))
    got = model.encode_image(known.images, return_exits=True)
    assert got.embeddings.isfinite().all()
    if policy in ("max_softmax", "entropy", "margin"):
        assert (got.exits == min(model.thresholds)).all(), "it is won without doubt"


def test_wrong_banks_and_names_are_one_line(make):
    model = make("margin")
    for bank in (torch.zeros(3), torch.zeros(3, 5), torch.zeros(0, 64)):
        with pytest.raises(UserError, match=r"a text bank has shape \[M, 64\], not"):
            model.set_text_bank(bank)
    with pytest.raises(UserError, match="no thresholds for 'flowers'; this model has some for scenes, digits"):
        model.use_calibration("flowers")
    with pytest.raises(UserError, match="chunk 0"):
        make("tgem", chunk=0)
    with pytest.raises(UserError, match="sees only the image and takes no text bank"):
        make("tgem").set_text_bank(torch.zeros(3, 64))


def test_rates_are_the_policy_s(make):
    for policy in ("tgem", "margin", "tgem_bank", "fixed", "learned_confidence"):
        early = make(policy).early_exit
        for name, point in early.calibrations.items():
            expected = POLICIES[policy].costs(early.costs, 5, point.visited)
            assert early.rates(name, 5).tolist() == expected.tolist()


def test_it_is_frozen_and_behaves_as_open_clip_s(make, known, demo_backbone):
    model = make().train()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    tokens = model.tokenizer(["a red four"])
    images, texts, scale = model(known.images[:2], tokens)
    _, expected, expected_scale = demo_backbone.model(None, tokens)
    assert torch.equal(texts, expected) and torch.equal(scale, expected_scale)
    assert torch.equal(images, model.encode_image(known.images[:2])) and model(None, None)[:2] == (None, None)
    assert torch.allclose(images.norm(dim=-1), torch.ones(2))


class PassingTower:
    """A tower whose summaries and embeddings are given."""

    def __init__(self, summary_dim, embed_dim):
        self.summary_dim, self.embed_dim = summary_dim, embed_dim

    def summarise(self, state, grids):
        return state[:, : self.summary_dim].unflatten(1, (-1, 4))

    def finish(self, state):
        return state[:, : self.embed_dim]


@pytest.mark.parametrize("policy", RUNNABLE)
def test_decisions_stay_on_an_accelerator(monkeypatch, policy):
    """There may be no GPU: fake tensors refuse operations that mix devices."""
    heads = ExitHeads(3, 20, 4, 6)
    gates = {
        "image": LookaheadGates(3, 20, 4, [0.2, 0.4, 0.6, 1.0]),
        "bank": BankGates(3, 20, 4),
        "confidence": ImageGates(3, 20, 4),
        "router": ImageGates(3, 20, 4),
        "variance": ConfidenceAndVarianceGates(3, 20, 4, 4),
    }
    chosen, costs = POLICIES[policy], costs_of_sizes([4, 4, 4], 20, 6)
    chosen.reads(costs)
    # Turning a Python number into a fake tensor is not supported, so that the grid of prices is made beforehand.
    grid = bank_modules.price_grid(40)
    monkeypatch.setattr(bank_modules, "price_grid", lambda n: grid)
    with FakeTensorMode() as mode:
        for module in (heads, *gates.values()):
            for store in (s for m in module.modules() for s in (m._parameters, m._buffers)):
                store.update({k: mode.from_tensor(v).to("cuda") for k, v in store.items() if v is not None})
        own = None if chosen.frozen_head else heads
        bank = torch.empty(3, 6, device="cuda") if chosen.needs_bank else None
        decider = ExitDecider(chosen, costs, own, gates.get(chosen.gates), {0: 0.0, 1: 0.0}, (0, 1), 10.0, bank)
        memory = {}
        for exit_index in (0, 1):
            view = LiveView(exit_index, decider, PassingTower(20, 6), torch.empty(5, 20, device="cuda"), memory)
            mask = decider.leaving(view)
            assert mask.device.type == "cuda" and mask.shape == (5,)
            assert view.embed(torch.arange(2, device="cuda")).shape == (2, 6)


def test_no_image_exceeds_a_cap_where_an_early_exit_costs_more_than_the_encoder(make, known):
    """Its head and gates are paid as well; with cheap thresholds all images would leave there."""
    model = make("tgem")
    costs = model.early_exit.costs
    expensive = replace(costs, head=(*costs.head[:-1], costs.encoder[-1]))
    early = replace(model.early_exit, costs=expensive)
    early.calibrations["scenes"] = Calibration((float("inf"),) * 6 + (-float("inf"),), None, 0.5)
    free = EarlyExitCLIP(model.backbone, early)
    assert set(free.encode_image(known.images, return_exits=True).exits.tolist()) == {6}
    assert free.rates[6] > 1.01 >= free.rates[7]
    capped = EarlyExitCLIP(model.backbone, early, max_rate=1.01)
    exits = capped.encode_image(known.images, return_exits=True).exits
    assert set(exits.tolist()) == {7} and capped.rates[exits].max() <= 1.01


@pytest.mark.parametrize("policy", ["tgem", "margin"])
def test_a_logit_bias_is_kept_and_returned_as_open_clip_returns_it(make, known, biased_backbone, tmp_path, policy):
    unbiased = make(policy)
    EarlyExitCLIP(biased_backbone, unbiased.early_exit).save_pretrained(tmp_path / "g")
    model = EarlyExitCLIP.from_pretrained(tmp_path / "g")
    tokens = model.tokenizer(["a red four", "a blue two"])
    expected = biased_backbone.model(None, tokens)
    if policy == "margin":
        for one in (model, unbiased):
            one.set_text_bank(one.encode_text(tokens))
    given = model(known.images[:8], tokens)
    assert len(given) == len(expected) == 4 and given[3].item() == model.logit_bias.item() == -10
    assert all(torch.equal(a, b) for a, b in zip(given[1:], expected[1:], strict=True))
    assert torch.equal(given[0], unbiased.encode_image(known.images[:8])), "exits do not depend on it"
    model.model.output_dict = True
    named = model(known.images[:8], tokens)
    assert named.keys() == {"image_features", "text_features", "logit_scale", "logit_bias"}
    assert unbiased.logit_bias is None and len(unbiased(None, tokens)) == 3
