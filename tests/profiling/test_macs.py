import open_clip
import pytest
import torch
from conftest import DEMO_SOURCE, ROOT, variant
from torch import nn

from tgems.backbones.config import model_config
from tgems.backbones.load import build_image_tower
from tgems.errors import UserError
from tgems.exits.modules import BankGates, ExitHeads, ImageGates, LookaheadGates
from tgems.exits.sizes import BANK_FEATURES, exit_blocks
from tgems.profiling.closed_form import encoder_cost
from tgems.profiling.costs import module_costs, read_costs
from tgems.profiling.count import count_backbone
from tgems.profiling.macs import ZERO_COST, UnsupportedOperationError, count_encoder, count_macs

SOURCES = [
    DEMO_SOURCE,
    f"local-dir:{ROOT}/assets/backbones/demo-vit-12",
    "open_clip:ViT-B-32-quickgelu/random",
    "open_clip:ViT-B-16/random",
    "open_clip:ViT-L-14/random",
]


@pytest.mark.parametrize("source", SOURCES)
def test_trace_equals_the_closed_form_to_the_last_mac(source):
    cfg = model_config(source)
    exits, full = count_encoder(build_image_tower(source), cfg["vision_cfg"]["image_size"])
    closed = encoder_cost(cfg)
    assert tuple(e.macs for e in exits) == closed.blocks
    assert tuple(e.normalisation for e in exits) == closed.blocks_normalisation
    assert (full.macs, full.normalisation) == (closed.full, closed.full_normalisation)


def test_vit_b_32_by_hand():
    """49 patches of 32 x 32 x 3, 50 tokens, 12 blocks of 12 * 768^2 a token and two attention products."""
    stem = 49 * 3072 * 768
    block = 50 * 12 * 768**2 + 2 * 50 * 50 * 768
    assert encoder_cost(model_config("open_clip:ViT-B-32/random")).full == stem + 12 * block + 768 * 512


def test_modules_cost_what_fvcore_counts():
    costs = module_costs(model_config(DEMO_SOURCE), variant(128, 32))
    s, bank = torch.zeros(1, 1, 128), torch.zeros(1, 1, BANK_FEATURES)
    assert count_macs(ExitHeads(1, 128, 128, 64), (s,)).macs == costs.head
    assert count_macs(ImageGates(1, 128, 32), (s,)).macs == costs.confidence_gate
    assert count_macs(BankGates(1, 128, 32), (s, bank, torch.ones(1))).macs == costs.bank_gate
    every = LookaheadGates(7, 128, 32, [k / 8 for k in range(1, 9)])
    assert count_macs(every, (torch.zeros(1, 7, 128),)).macs == 7 * costs.image_gate
    assert costs.image_guided()[0] * costs.full == pytest.approx(costs.encoder[0] + costs.head + costs.image_gate)
    assert costs.image_guided()[-1] * costs.full == pytest.approx(costs.full + 7 * costs.image_gate)


def test_stage_writes_what_it_counted(tmp_path):
    chosen = variant(128, 32)
    count_backbone(DEMO_SOURCE, build_image_tower(DEMO_SOURCE), chosen, tmp_path / "macs.json")
    assert read_costs(tmp_path / "macs.json") == module_costs(model_config(DEMO_SOURCE), chosen)


def test_fewer_exits_and_smaller_summaries_cost_less(tmp_path):
    chosen = variant(0, 32, exits="every_other", summary="cls")
    count_backbone(DEMO_SOURCE, build_image_tower(DEMO_SOURCE), chosen, tmp_path / "macs.json")
    costs, whole = read_costs(tmp_path / "macs.json"), module_costs(model_config(DEMO_SOURCE), variant(128, 32))
    assert costs.blocks == (2, 4, 6, 8) and costs.encoder == whole.encoder[1::2]
    assert costs.head == 64 * costs.embed_dim and costs.image_gate < whole.image_gate


@pytest.mark.parametrize(
    ("placement", "blocks"),
    [("all", [1, 2, 3, 4, 5]), ("every_other", [1, 3, 5]), ("last_half", [2, 3, 4, 5]), ([4, 2], [2, 4, 5])],
)
def test_exit_placement(placement, blocks):
    assert exit_blocks(placement, 5) == blocks


@pytest.mark.parametrize("placement", [[5], [0, 2], [6]])
def test_impossible_exits_are_named(placement):
    with pytest.raises(UserError, match="expected blocks from 1 to 4"):
        exit_blocks(placement, 5)


class Sorts(nn.Module):
    def forward(self, x):
        return torch.linalg.matrix_exp(x)


def test_an_operation_that_nobody_knows_fails_the_count():
    with pytest.raises(UnsupportedOperationError, match="linalg_matrix_exp"):
        count_macs(Sorts(), (torch.zeros(1, 3, 3),))


def test_nothing_that_multiplies_matrices_is_free():
    products = {f"aten::{name}" for name in ("mm", "bmm", "matmul", "addmm", "linear", "conv2d", "einsum", "baddbmm")}
    assert not products & ZERO_COST
    assert "aten::scaled_dot_product_attention" not in ZERO_COST


def test_counting_leaves_the_module_and_the_fast_path_as_they_were():
    before = torch.backends.mha.get_fastpath_enabled()
    tower = open_clip.create_model("ViT-B-32", pretrained=None).visual.train()
    count_encoder(tower, 224)
    assert tower.training and torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize("name", ["RN50", "convnext_base"])
def test_towers_that_are_no_plain_transformer_are_refused(name):
    with pytest.raises(UserError, match="only open_clip's plain Vision Transformers"):
        encoder_cost(model_config(f"open_clip:{name}/random"))
