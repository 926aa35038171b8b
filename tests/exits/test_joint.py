"""Joint training of heads and gates: exit losses against loops, and what it learns on toy data."""

import pytest
import torch
from conftest import options
from toy import toy_pairs

from tgems.config.training import JointTraining
from tgems.costs.exit_costs import ExitCosts
from tgems.exits import losses
from tgems.exits.bank_modules import JointBankGates
from tgems.exits.bank_statistics import BankStatistics, bank_features
from tgems.exits.joint_training import draw_bank, relative_costs, train_joint
from tgems.exits.modules import ImageGates
from tgems.exits.saved_modules import build_module

GATE_COSTS = {kind: (2,) * 3 for kind in ("image", "bank", "confidence", "variance", "router")}
COSTS = ExitCosts((1, 2, 3, 4), (250, 500, 750, 1000), (10,) * 3, GATE_COSTS, 5, 8, (4,) * 3, 10)


def chosen(**changes) -> JointTraining:
    """Options of joint training on the toy pairs."""
    heads = {"batch_size": 64, "hidden": 16, "learning_rate": 0.01, "weight_decay": 0.05, "whiten": False}
    own = {"passes": 60, "largest_bank": 10, "eta": 0.1, "gate_hidden": 8}
    return JointTraining(**heads | own | changes)


@pytest.mark.parametrize("guidance", ["image", "bank"])
def test_easy_images_leave_first_and_the_rate_is_held(guidance):
    pairs = toy_pairs()
    heads, gates, history = train_joint(pairs, COSTS, guidance, 0.6, chosen(), 0)
    early = torch.arange(len(pairs)) % 2 == 0
    right = (heads(pairs.summaries) @ pairs.texts.T).argmax(-1) == pairs.text_of_caption[:, None]
    assert right[early, 0].float().mean() > 0.95 and right[:, 2].float().mean() > 0.95
    if guidance == "image":
        logits = gates(pairs.summaries)
    else:
        scores = pairs.scale * heads(pairs.summaries) @ pairs.texts.T
        logits = gates(pairs.summaries, bank_features(scores, pairs.scale))
    assert logits[early, 0].mean() > logits[~early, 0].mean() + 1
    assert history["rate"].iloc[-1] == pytest.approx(0.6, abs=0.08)
    assert not any(p.requires_grad for module in (heads, gates) for p in module.parameters())


def test_the_multiplier_prices_computation():
    cheap, expensive = (
        train_joint(toy_pairs(), COSTS, "image", target, chosen(eta=0.3), 0)[2]["rate"].iloc[-1]
        for target in (0.4, 0.9)
    )
    assert cheap < expensive - 0.2


def test_whitened_training_ends_in_heads_for_plain_summaries():
    pairs = toy_pairs()
    heads, _, _ = train_joint(pairs, COSTS, "image", 0.6, chosen(whiten=True), 0)
    right = (heads(pairs.summaries) @ pairs.texts.T).argmax(-1) == pairs.text_of_caption[:, None]
    assert right[:, 2].float().mean() > 0.95


def test_expected_loss_counts_each_exit_by_its_probability():
    torch.manual_seed(0)
    pairs, ids = toy_pairs(16), torch.arange(8)
    z = torch.nn.functional.normalize(torch.randn(8, 3, 8), dim=-1)
    log_pi = torch.randn(8, 4).log_softmax(1)
    given = pairs.last[:8], pairs.last[8:], ids, 5.0
    every = losses.per_exit_losses(z, *given, log_pi.T, options("heads"))
    one = torch.full((8, 4), -torch.inf)
    one[:, 2] = 0.0
    alone = losses.per_exit_losses(z, *given, one.T, options("heads"))
    assert every.shape == (4, 8)
    assert not torch.allclose(every[2], alone[2]), "the gallery of other images depends on where they leave"
    cosine = (z[:, 2] * pairs.last[:8]).sum(-1)
    without = losses.per_exit_losses(z, *given, one.T, options("heads", distill=0.0))
    assert torch.allclose(alone[2] - without[2], 1 - cosine, atol=1e-5)


def test_a_drawn_bank_leaves_out_other_captions_of_the_image():
    pairs = toy_pairs(40)
    z = torch.nn.functional.normalize(torch.randn(40, 3, 8), dim=-1)
    images = torch.arange(40)
    features, size = draw_bank(pairs, z, images, pairs.text_of_caption, 10, torch.Generator().manual_seed(0))
    assert features.shape == (40, 3, 11) and 2 <= size <= 10 and features.isfinite().all()


def test_joint_gates_cost_one_number_per_exit():
    assert relative_costs(COSTS, "image", 0).tolist() == pytest.approx(COSTS.image_guided().tolist())
    assert relative_costs(COSTS, "bank", 7).tolist() == pytest.approx(COSTS.bank_guided(7).tolist())


@pytest.mark.parametrize("widths", [None, (4, 3)])
@pytest.mark.parametrize("builder", [ImageGates, JointBankGates])
def test_scores_at_one_exit_equal_those_at_all_exits(builder, widths):
    torch.manual_seed(0)
    gates = builder(2, 8, 5, widths=widths).eval().requires_grad_(False)
    summaries, bank = torch.randn(6, 2, 8), torch.randn(6, 2, 11)
    if widths:
        summaries *= gates.norm.mask
    seen = BankStatistics(*[torch.zeros(6, 2).double()] * 3, torch.zeros(6, 2).long(), bank)
    for k in range(2):
        ours = gates.scores_at(k, summaries[:, k], BankStatistics(*(column[:, k] for column in seen)))
        assert torch.allclose(ours, gates.scores(summaries, seen)[:, k], atol=1e-6)


def test_joint_gates_come_back_from_their_tensors(tmp_path):
    from pydantic import TypeAdapter

    from tgems.exits.architecture import Architecture

    gates = JointBankGates(2, 8, 5)
    sizes = TypeAdapter(Architecture).validate_python({"kind": "joint_bank"} | gates.architecture)
    again = build_module(sizes, gates.state_dict(), tmp_path / "x", "")
    assert type(again) is JointBankGates
