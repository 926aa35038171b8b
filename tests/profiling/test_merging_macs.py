"""MACs of encoders that merge tokens: the closed form, fvcore's trace, torch's own counter, and sums by hand."""

import json
from itertools import accumulate

import open_clip
import pytest
import torch
from backbones.test_all_models import refusal
from conftest import DEMO, ROOT, variant
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import _build_vision_tower
from small_towers import MERGING, small_tower
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tgems.architectures.catalog import architecture, check_supported, family
from tgems.backbones.load import build_image_tower
from tgems.backbones.merging_towers import with_merging
from tgems.backbones.references import model_config
from tgems.backbones.towers import as_tower
from tgems.costs.closed_form import encoder_cost, merged_per_block
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import read_costs
from tgems.profiling.cost_table import print_tables
from tgems.profiling.count_backbone import count_backbone
from tgems.profiling.fvcore_trace import count_encoder
from tgems.provenance import read_json
from tgems.workflow_resources import JobEstimates


@pytest.mark.parametrize("r", [1, 3, 8])
@pytest.mark.parametrize(
    "backbone",
    [
        {"pretrained": f"local-dir:{ROOT}/assets/backbones/demo-vit-12"},
        {"model": "ViT-B-32", "pretrained": "random"},
        {"model": "coca_ViT-B-32", "pretrained": "random"},
    ],
    ids=["demo-vit-12", "ViT-B-32", "coca_ViT-B-32"],
)
def test_trace_equals_the_closed_form_to_the_last_mac(backbone, r):
    assert count_encoder(build_image_tower(backbone | {"token_merging": r})) == encoder_cost(model_config(backbone), r)


def counted(tower) -> list[int]:
    """MACs of the stem and of every block, and of the end, as torch counts them without values."""
    state, macs = torch.empty(1, 3, *tower.image_size), []
    for step in (tower.stem, *(lambda s, k=k: tower.block(k, s) for k in range(tower.depth)), tower.finish):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            state = step(state)
        macs.append(counter.get_total_flops() // 2)
    return macs


def test_torch_counts_the_closed_form_of_every_plain_vit():
    """The first three blocks are compared. Tensors have shapes only, as on the meta device, which has no autocast."""
    seen = set()
    for name in open_clip.list_models():
        cfg = architecture(name)
        if family(cfg) != "vit" or refusal(check_supported, cfg, name):
            continue
        cfg["vision_cfg"] |= {"layers": 3}
        key = json.dumps([cfg["embed_dim"], cfg["vision_cfg"]], sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        with FakeTensorMode():
            plain = as_tower(_build_vision_tower(cfg["embed_dim"], cfg["vision_cfg"]).eval().requires_grad_(False))
            r = plain.grid_size[0] * plain.grid_size[1] // 3  # the third block finds fewer to merge
            stem, *blocks, finish = counted(with_merging(plain, r, name))
        cost = encoder_cost(cfg, r)
        assert tuple(accumulate([stem, *blocks]))[1:] == cost.blocks and finish == cost.finish, name
    assert len(seen) > 20


def test_vit_b_16_equals_a_calculation_by_hand():
    """196 patches of 16 x 16 x 3; 8 tokens merged in each of 12 blocks: 197, 189, ..., 109 tokens."""
    macs = 196 * 768 * 768 + 768 * 512
    for k in range(12):
        tokens, left = 197 - 8 * k, 196 - 8 * k
        macs += 4 * tokens * 768**2 + 2 * tokens**2 * 768 + (left // 2) ** 2 * 64 + 8 * (tokens - 8) * 768**2
    assert encoder_cost(architecture("ViT-B-16"), 8).full == macs
    assert 0.74 < macs / encoder_cost(architecture("ViT-B-16")).full < 0.75


@pytest.mark.parametrize("name", MERGING)
def test_each_block_of_every_family_costs_less_than_the_one_before(name):
    plain, merging = (count_encoder(small_tower(full)) for full in (name, f"{name}, merging"))
    first, second = merging.blocks
    assert second < plain.blocks[1] and second - first < plain.blocks[1] - plain.blocks[0]
    assert merging.finish == plain.finish, "the end sees a token for every patch"


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 400))
def test_at_most_half_of_the_tokens_are_merged(patches, depth, r):
    merged, left = merged_per_block(patches, depth, r), patches
    assert len(merged) == depth
    for number in merged:
        assert number == r or number == left // 2 < r
        left -= number
    assert left >= 1 and (r > 0 or merged == [0] * depth)


def test_a_resnet_has_no_closed_form_with_merging():
    with pytest.raises(ValueError, match="a ResNet has no tokens to merge"):
        encoder_cost(architecture("RN50"), 1)


def test_the_stage_writes_the_costs_of_the_encoder_that_merges(tmp_path):
    backbone, chosen = DEMO | {"token_merging": 2}, variant(128, 32)
    count_backbone(backbone, build_image_tower(backbone), chosen, [0.9], tmp_path / "macs.json")
    costs, plain = read_costs(tmp_path / "macs.json"), module_costs(model_config(DEMO), chosen)
    assert costs == module_costs(model_config(DEMO), chosen, 2) != plain
    assert read_json(tmp_path / "macs.json")["closed_form"] == list(costs.encoder)
    blocks = [b - a for a, b in zip(costs.encoder, costs.encoder[1:], strict=False)]
    assert sorted(blocks, reverse=True) == blocks and costs.full < plain.full and costs.head == plain.head


def test_the_table_counts_merged_tokens(capsys):
    print_tables(["ViT-B-16"], 8)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ViT-B-16: 13.108 GMACs, 8 tokens merged per block" and lines[-1].split()[:3] == [
        "12",
        "13.108",
        "1.000",
    ]


def test_a_job_on_an_encoder_that_merges_asks_for_as_much_memory_and_less_time(monkeypatch):
    import yaml

    from tgems.workflow_config import complete_config

    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text())
    entry = {"model": "ViT-L-14", "pretrained": "random"}
    config["backbones"] = {"plain": entry, "merging": entry | {"token_merging": 8}}
    work = JobEstimates(complete_config(config | {"demo": {"train": 100_000}}))
    plain, merging = (work.encoding(name, "scenes", ["train"]) for name in ("plain", "merging"))
    assert merging.mem_mb == plain.mem_mb and merging.runtime < plain.runtime
    sizes = [work.sizes(name, "default") for name in ("plain", "merging")]
    assert sizes[0].weights_mb == sizes[1].weights_mb and sizes[0].macs > sizes[1].macs
