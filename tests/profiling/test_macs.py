import re

import pytest
import torch
from conftest import DEMO, ROOT, variant
from torch import nn
from torch.nn import functional

from tgems.architectures.catalog import architecture
from tgems.backbones.load import build_image_tower
from tgems.backbones.references import model_config
from tgems.costs.closed_form import BANK_FEATURES, encoder_cost
from tgems.costs.exit_costs import module_costs
from tgems.costs.exit_layout import exit_blocks
from tgems.costs.saved_costs import read_costs
from tgems.errors import UserError
from tgems.exits.bank_modules import BankGates
from tgems.exits.modules import ExitHeads, ImageGates, LookaheadGates
from tgems.profiling.cost_table import print_tables
from tgems.profiling.count_backbone import count_backbone
from tgems.profiling.fvcore_trace import UnsupportedOperationError, count_encoder, count_macs
from tgems.provenance import read_json

RANDOM = ["ViT-B-32-quickgelu", "ViT-B-16", "coca_ViT-B-32", "ViT-L-14-CLIPA", "RN50", "RN50x4"]
BACKBONES = [
    DEMO,
    {"pretrained": f"local-dir:{ROOT}/assets/backbones/demo-vit-12"},
    *({"model": name, "pretrained": "random"} for name in RANDOM),
]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: b.get("model", b["pretrained"][-6:]))
def test_trace_equals_the_closed_form_to_the_last_mac(backbone):
    assert count_encoder(build_image_tower(backbone)) == encoder_cost(model_config(backbone))


def test_vit_b_32_equals_a_calculation_by_hand():
    """49 patches of 32 x 32 x 3, 50 tokens, 12 blocks of 12 * 768^2 a token and two attention products."""
    stem = 49 * 3072 * 768
    block = 50 * 12 * 768**2 + 2 * 50 * 50 * 768
    assert encoder_cost(architecture("ViT-B-32")).full == stem + 12 * block + 768 * 512


def test_modules_cost_what_fvcore_counts():
    costs = module_costs(model_config(DEMO), variant(128, 32))
    dim = 5 * 64
    assert (costs.summary_dim, costs.width, costs.grid) == (dim, 64, 2)
    s, bank = torch.zeros(1, 1, dim), torch.zeros(1, 1, BANK_FEATURES)
    assert count_macs(ExitHeads(1, dim, 128, 64), (s,)).macs == costs.head[0]
    assert count_macs(ImageGates(1, dim, 32), (s,)).macs == costs.gates["confidence"][3]
    assert count_macs(BankGates(1, dim, 32), (s, bank, torch.ones(1))).macs == costs.gates["bank"][6]
    image = costs.gates["image"]
    every = LookaheadGates(7, dim, 32, [k / 8 for k in range(1, 9)])
    assert count_macs(every, (torch.zeros(1, 7, dim),)).macs == sum(image)
    assert costs.image_guided()[0] * costs.full == pytest.approx(costs.encoder[0] + costs.head[0] + image[0])
    assert costs.image_guided()[-1] * costs.full == pytest.approx(costs.full + sum(image))


def test_stage_writes_what_it_counted(tmp_path):
    chosen = variant(128, 32)
    count_backbone(DEMO, build_image_tower(DEMO), chosen, [0.9], tmp_path / "macs.json")
    assert read_costs(tmp_path / "macs.json") == module_costs(model_config(DEMO), chosen)


def test_fewer_exits_and_smaller_summaries_cost_less(tmp_path):
    chosen = variant(0, 32, exits="every_other", summary={"grid": 0})
    count_backbone(DEMO, build_image_tower(DEMO), chosen, [0.9], tmp_path / "macs.json")
    costs, whole = read_costs(tmp_path / "macs.json"), module_costs(model_config(DEMO), variant(128, 32))
    assert costs.blocks == (2, 4, 6, 8) and costs.encoder == whole.encoder[1::2]
    assert set(costs.head) == {64 * costs.embed_dim} and costs.gates["image"][0] < whole.gates["image"][0]


@pytest.mark.parametrize(
    ("placement", "blocks"),
    [("all", [1, 2, 3, 4, 5]), ("every_other", [1, 3, 5]), ("last_half", [2, 3, 4, 5]), ([4, 2], [2, 4, 5])],
)
def test_exits_are_placed_as_their_key_says(placement, blocks):
    assert exit_blocks(placement, range(1, 6)) == blocks


@pytest.mark.parametrize("placement", [[5], [0, 2], [6]])
def test_impossible_exits_are_named(placement):
    with pytest.raises(UserError, match="expected at least one of blocks 1 to 4; the last, 5, is added"):
        exit_blocks(placement, range(1, 6))


class Applies(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("function", [torch.linalg.matrix_exp, lambda x: torch.baddbmm(x, x, x)])
def test_an_unknown_operation_fails_the_count(function):
    with pytest.raises(UnsupportedOperationError, match="linalg_matrix_exp|baddbmm"):
        count_macs(Applies(function), (torch.zeros(2, 3, 3),))


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: torch.mm(x[0], x[1]), 27),
        (lambda x: torch.bmm(x, x), 2 * 27),
        (lambda x: x @ x, 2 * 27),
        (lambda x: torch.addmm(x[0], x[0], x[1]), 27),
        (lambda x: functional.linear(x, x[0]), 2 * 27),
        (lambda x: torch.einsum("bij,bjk->bik", x, x), 2 * 27),
        (lambda x: functional.conv2d(x[None], torch.ones(1, 2, 3, 3)), 2 * 9),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), 2 * 2 * 27),
    ],
    ids=["mm", "bmm", "matmul", "addmm", "linear", "einsum", "conv2d", "attention"],
)
def test_products_are_counted(function, macs):
    assert count_macs(Applies(function), (torch.zeros(2, 3, 3),)).macs == macs


def test_counting_leaves_the_module_and_the_fast_path_as_they_were():
    before = torch.backends.mha.get_fastpath_enabled()
    tower = build_image_tower(DEMO)
    tower.visual.train()
    count_encoder(tower)
    assert tower.visual.training and torch.backends.mha.get_fastpath_enabled() == before


def test_a_target_out_of_reach_is_refused_if_costs_are_only_traced(tmp_path):
    backbone = {"model": "PE-Core-T-16-384", "pretrained": "random"}
    tower = build_image_tower(backbone)
    assert module_costs(model_config(backbone), variant()) is None
    with pytest.raises(UserError, match="rate target 0.05 is below the cheapest exit of backbone 'PE-Core-T-16-384'"):
        count_backbone(backbone, tower, variant(), [0.05], tmp_path / "macs.json")
    count_backbone(backbone, tower, variant(exits=[3, 6]), [0.9], tmp_path / "macs.json")
    costs = read_costs(tmp_path / "macs.json")
    assert costs.blocks == (3, 6, 12) and read_json(tmp_path / "macs.json")["closed_form"] is None


def test_variants_choose_among_the_exits_that_are_kept():
    costs = module_costs(model_config(DEMO), variant(exits="every_other") | {"kept": [1, 2, 5, 7]})
    assert costs.blocks == (1, 5, 8)
    with pytest.raises(UserError, match="exits .4.: expected at least one of blocks 1 to 2; the last, 8, is added"):
        module_costs(model_config(DEMO), variant(exits=[4]) | {"kept": [1, 2]})


def test_a_table_has_a_row_per_exit(capsys):
    print_tables(["RN50", DEMO["pretrained"]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 + 2 + 8 and lines[0] == "RN50: 6.111 GMACs"
    assert lines[5].split() == ["4", "6.111", "1.000", "6.112", "38.32"]
    assert lines[-1].split()[2] == "1.000"


@pytest.mark.parametrize(
    ("model", "message"), [("ViT-L-144", "did you mean 'ViT-L-14'?"), ("convnext_base", "is not supported")]
)
def test_the_table_of_an_unknown_model_is_refused(model, message):
    with pytest.raises(UserError, match=re.escape(message)):
        print_tables([model])
