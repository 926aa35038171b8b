"""A ResNet and a tower without class token, small and random, on the whole way from images to policies."""

import logging

import pandas as pd
import pytest
import torch
from conftest import variant
from torch.nn import functional as F

from tgems.backbones.towers import as_tower
from tgems.config.training import BankGateOptions, ConfidenceTraining, HeadOptions, ImageGateOptions, RouterTraining
from tgems.costs.exit_costs import exit_costs
from tgems.evaluation.operating_points import policy_rows
from tgems.evaluation.semantic_content import semantic_content
from tgems.evaluation.split import Split
from tgems.evaluation.thresholds import fit_policies, usable
from tgems.exits.bank_gate_training import train_bank_gates, train_variance_gates
from tgems.exits.bank_modules import BankGates, break_even_price
from tgems.exits.head_training import embed, train_confidence_gates, train_heads
from tgems.exits.image_gate_training import hit_probabilities, train_image_gates, train_lookahead, train_router
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.exits.per_exit_layers import ExitNorm
from tgems.exits.training_pairs import Pairs
from tgems.features.cache import FeatureSet
from tgems.features.encode import encode_images
from tgems.features.row_access import Rows
from tgems.policies.cached_outputs import ExitModules
from tgems.policies.registry import POLICIES
from tgems.profiling.count_backbone import trace_modules
from tgems.profiling.fvcore_trace import count_encoder

SIZES = {"hidden": 8, "passes": 1, "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0.0}
HEADS = HeadOptions(**SIZES, products="float32")
IMAGE = ImageGateOptions(**SIZES, foresight_passes=1, foresight_learning_rate=1e-3)
BANK = BankGateOptions(**SIZES, largest_bank=16, banks_per_image=1, bank_batch_size=16)


def resnet():
    from open_clip.modified_resnet import ModifiedResNet

    return as_tower(ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, image_size=32, width=4).eval())


def without_class_token():
    from open_clip.timm_model import TimmModel

    visual = TimmModel("vit_base_patch32_siglip_256", embed_dim=0, image_size=64, pool="map", proj="none")
    visual.trunk = type(visual.trunk)(
        img_size=64, patch_size=32, embed_dim=16, depth=4, num_heads=2, num_classes=8, class_token=False,
        global_pool="map",
    )  # fmt: skip
    return as_tower(visual.eval())


@pytest.fixture(scope="module", params=[resnet, without_class_token])
def trained(request):
    """Tower, features, costs and modules."""
    torch.manual_seed(0)
    tower = request.param()
    blocks, n = tuple(range(1, tower.depth + 1)), 32
    encoded = encode_images(tower, torch.randn(n, 3, *tower.image_size), blocks)
    frame = pd.DataFrame({"image": range(n), "text": range(n), "caption": [f"number {i}" for i in range(n)]})
    widths = list(tower.widths[:-1])
    manifest = {"blocks": list(blocks), "widths": widths, "grids": [2], "logit_scale": 10.0, "n": n, "prompts": ""}
    manifest["shards"] = {}
    texts = F.normalize(torch.randn(n, 8), dim=-1)
    samples = pd.DataFrame({"key": [str(i) for i in range(n)], "label": None})
    raw = None if encoded.raw_embeddings is None else Rows((encoded.raw_embeddings[:, :-1],))
    features = FeatureSet(Rows((encoded.summaries,)), encoded.embeddings, raw, texts, samples, frame, manifest)
    costs = exit_costs(count_encoder(tower), variant(8, 8), tower.accepts_raw)
    features = features.at_exits(costs.blocks, costs.summary_dim)
    pairs, rates = Pairs.of(features), torch.from_numpy(costs.image_guided()).float()
    heads, _ = train_heads(pairs, rates, HEADS, 0)
    z = embed(heads, pairs.summaries, pairs.last)
    right = hit_probabilities(pairs, z, 8, torch.Generator().manual_seed(0))
    foresight, _ = train_lookahead(pairs, right, rates, IMAGE, 0)
    gates, _ = train_image_gates(pairs, right, rates, foresight, 0.7, IMAGE, 0)
    confidence, _ = train_confidence_gates(pairs, z, ConfidenceTraining(**SIZES), 0)
    bank, _ = train_bank_gates(pairs, z, costs, BANK, 0)
    variance, _ = train_variance_gates(pairs, z, BANK, 0)
    router, _ = train_router(pairs, right, RouterTraining(**SIZES, bank_size=8), 0)
    every = {("image", 0.7): gates, ("bank", None): bank, ("confidence", None): confidence}
    return tower, features, costs, ExitModules(heads, every | {("variance", None): variance, ("router", None): router})


def test_modules_cost_what_is_traced_in_their_true_width(trained):
    tower, _, costs, _ = trained
    assert trace_modules(costs, variant(8, 8)) == costs
    assert costs.widths == tower.widths[:-1] and (costs.projection is None) == (not tower.accepts_raw)
    assert (len(set(costs.head)) == 1) == (len(set(costs.widths)) == 1)


def test_every_usable_policy_gives_finite_rows(trained, caplog):
    tower, features, costs, modules = trained
    with caplog.at_level(logging.INFO, "tgems"):
        chosen = usable(POLICIES, costs)
    raw = {"fixed_raw", "hull_raw", "max_softmax_raw", "margin_raw", "saturation_raw"}
    left_out = set() if tower.accepts_raw else {"saturation", *raw}
    assert POLICIES.keys() - chosen.keys() == left_out
    assert len(caplog.records) == len(left_out)
    for split in (Split(features, costs), Split(features, costs, modules, 0)):
        fitted = fit_policies(split, chosen, [0.7])
        rows = list(policy_rows(split, chosen, fitted, "in_domain", True))
        assert {row.about["policy"] for row in rows} - {"shuffled"} == {n for n, p in chosen.items() if split.serves(p)}
        for row in rows:
            assert all(pd.notna(hits).all() and hits.max() <= 1 for hits in row.hits.values()), row.about
            assert (row.rates > 0).all() and pd.notna(row.rates).all(), row.about


def test_semantic_content_has_the_heads_that_there_are(trained):
    tower, features, costs, modules = trained
    splits = Split(features, costs), [Split(features, costs, modules, 0)]
    frame = semantic_content(*splits, {"backbone": "b"})
    assert set(frame["head"]) == ({"raw", "trained"} if tower.accepts_raw else {"trained"})
    assert frame["value"].between(0, 1).all()


def test_full_is_the_last_exit(trained):
    _, features, costs, _ = trained
    split = Split(features, costs)
    assert torch.equal(split.embeddings[:, -1], features.embeddings)


def test_padding_of_narrow_exits_has_no_influence():
    torch.manual_seed(0)
    widths, s = (2, 3, 4), torch.randn(5, 3, 8)
    true = torch.arange(8) % 4 < torch.tensor(widths)[:, None]
    other = torch.where(true, s, 100 * torch.randn(5, 3, 8))
    bank = torch.randn(5, 3, 11)
    modules = ExitHeads(3, 8, 6, 4, widths), ImageGates(3, 8, 6, widths=widths), BankGates(3, 8, 6, widths)
    for module, rest in zip(modules, ((), (), (bank, torch.ones(1))), strict=True):
        torch.nn.init.normal_(module.norm.bias)
        assert torch.equal(module(s, *rest), module(other, *rest))
        module(s, *rest).sum().backward()
        assert not module.norm.weight.grad[~true].any() and not module.norm.bias.grad[~true].any()


def test_one_exit_alone_is_the_same_in_its_true_width():
    torch.manual_seed(0)
    widths, s, bank = (2, 3, 4), torch.randn(5, 3, 8), torch.randn(5, 3, 11)
    heads, gates, bank_gates = (
        ExitHeads(3, 8, 6, 4, widths),
        ImageGates(3, 8, 6, widths=widths),
        BankGates(3, 8, 6, widths),
    )
    for parameter in (heads.down.weight, *bank_gates.parameters()):
        torch.nn.init.normal_(parameter)
    price = break_even_price(bank_gates, s, bank)
    for k in range(3):
        assert torch.allclose(heads.at_exit(k, s[:, k]), heads(s)[:, k], atol=1e-6)
        assert torch.allclose(gates.scores_at(k, s[:, k], None).float(), gates(s)[:, k], atol=1e-6)
        assert torch.allclose(bank_gates.break_even_at(k, s[:, k], bank[:, k]), price[:, k], atol=1e-4)


def test_unpadded_values_are_normalised_without_the_padding():
    torch.manual_seed(0)
    norm, s = ExitNorm(2, 8, (2, 4)), torch.randn(5, 2, 8)
    narrow = s[:, 0, [0, 1, 4, 5]]
    assert torch.allclose(norm(s)[:, 0, [0, 1, 4, 5]], F.layer_norm(narrow, (4,)), atol=1e-6)
    assert torch.allclose(norm(s)[:, 1], F.layer_norm(s[:, 1], (8,)), atol=1e-6)


def test_exits_of_a_choice_are_filled_up_to_their_own_widest(trained):
    tower, features, _, _ = trained
    if tower.accepts_raw:
        pytest.skip("all exits are as wide as each other")
    some = features.at_exits((1, 2, 4), 5 * tower.widths[1])
    w, whole = tower.widths[1], features.summaries[:].unflatten(-1, (5, -1))
    assert torch.equal(some.summaries[:].unflatten(-1, (5, -1)), whole[:, :2, :, :w])
    assert some.manifest["widths"] == list(tower.widths[:2]) and some.widths == tower.widths[:2]
    one = features.at_exits((1, 4), tower.widths[0])
    assert one.widths is None and torch.equal(one.summaries[:], whole[:, :1, 0, : tower.widths[0]])
