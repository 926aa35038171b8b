"""Every image tower of open_clip is either split into blocks or refused, from its configuration as from the tower."""

import csv
import json
import re
from importlib.metadata import version
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from conftest import ROOT
from open_clip.model import _build_vision_tower

from tgems.architectures.catalog import TIMM_TRANSFORMERS, architecture, check_supported, family
from tgems.backbones.load import build_image_tower
from tgems.backbones.towers import Tower, as_tower
from tgems.costs.closed_form import encoder_cost
from tgems.errors import UserError
from tgems.profiling.fvcore_trace import count_encoder

TRACED = ("ViT-B-16-SigLIP", "EVA02-B-16", "vit_medium_patch16_gap_256")
PUBLISHED = Path(__file__).parent / "published_gflops.csv"
FAMILIES = {
    "class token": "ViT-S-32",
    "mean": "ViT-L-14-CLIPA",
    "attentional pooling": "coca_ViT-B-32",
    "SigLIP": "ViT-B-32-SigLIP2-256",
    "EVA": "EVA02-B-16",
    "PE": "PE-Core-T-16-384",
    "ResNet": "RN50",
}


def refusal(of, *arguments) -> str | None:
    """Return why a tower is refused, or None."""
    try:
        of(*arguments)
    except UserError as error:
        return str(error)


def on_meta(model_cfg: dict):
    """Build an image tower whose parameters have no values."""
    with torch.device("meta"):
        return _build_vision_tower(model_cfg["embed_dim"], model_cfg["vision_cfg"], model_cfg.get("quick_gelu", False))


def shapes(tower: Tower) -> tuple[tuple, list, list]:
    """Return widths, and shapes of summaries and embeddings after the first and last block, or after every stage."""
    state = tower.stem(torch.empty(2, 3, *tower.image_size, device="meta"))
    summaries, embeddings = [], []
    for k in (0, tower.depth - 1) if tower.accepts_raw else range(tower.depth):
        state = tower.block(k, state)
        summaries.append(tuple(tower.summarise(state, (2,)).shape))
        if tower.accepts_raw or k == tower.depth - 1:
            embeddings.append(tuple(tower.finish(state).shape))
    return tower.widths, summaries, embeddings


@pytest.fixture(scope="module")
def walked():
    """Refusal by configuration, refusal by tower, and shapes of a forward pass, for every open_clip model by name."""
    seen, outcome = {}, {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *_: tensor)  # slow without values
        for name in open_clip.list_models():
            cfg = architecture(name)
            key = json.dumps([cfg["embed_dim"], cfg["vision_cfg"]], sort_keys=True)
            if key not in seen:
                visual = on_meta(cfg).eval().requires_grad_(False)
                refused = refusal(as_tower, visual)
                seen[key] = (refused, None if refused else shapes(as_tower(visual)))
            outcome[name] = (refusal(check_supported, cfg, name), *seen[key])
    return outcome


def test_configuration_and_tower_agree(walked):
    refused = {name: by_config for name, (by_config, _, _) in walked.items() if by_config}
    assert refused.keys() == {name for name, (_, by_tower, _) in walked.items() if by_tower}
    assert all(repr(name) in line and "\n" not in line for name, line in refused.items())


@pytest.mark.parametrize("page", ["README.md", "docs/adding-a-backbone.md"])
def test_pages_state_how_many_architectures_are_supported(walked, page):
    text = (ROOT / "docs/adding-a-backbone.md").read_text()
    documented = re.search(r"of open_clip ([\d.]+\d)", text)[1]
    if version("open_clip_torch") != documented:
        pytest.skip(f"the pages count the architectures of open_clip {documented}")
    supported = sum(refused is None for refused, _, _ in walked.values())
    assert re.search(r"(\d+) of (?:the|its) (\d+) architectures", (ROOT / page).read_text()).groups() == (
        str(supported),
        str(len(walked)),
    )


def test_every_supported_tower_yields_summaries_and_embeddings(walked):
    for name, (_, _, forward) in walked.items():
        if forward is None:
            continue
        widths, summaries, embeddings = forward
        assert len(widths) >= 4, name
        assert summaries == [(2, 1 + 4, w) for w in (widths if len(set(widths)) > 1 else widths[:2])], name
        assert set(embeddings) == {(2, architecture(name)["embed_dim"])}, name


def test_closed_form_knows_depth_and_widths(walked):
    closed = {name: encoder_cost(architecture(name)) for name, (_, _, forward) in walked.items() if forward}
    for name, cost in closed.items():
        assert (cost is None) == (family(architecture(name)) == "timm"), name
        assert cost is None or cost.widths == walked[name][2][0], name


def test_costs_are_within_a_percent_of_what_open_clip_publishes():
    with open(PUBLISHED) as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    closed = {row["model"]: encoder_cost(architecture(row["model"])) for row in rows}
    assert {family(architecture(name)) for name, cost in closed.items() if cost} == {"vit", "resnet"}
    for row in rows:
        cost = closed[row["model"]]
        if cost is None and row["model"] in TRACED:
            cost = count_encoder(build_image_tower({"model": row["model"], "pretrained": "random"}))
        if cost is not None:
            assert 2 * cost.full / 1e9 == pytest.approx(float(row["image_gflops"]), rel=0.01), row["model"]


def test_the_pattern_matches_timms_transformers_and_nothing_else():
    ours = {name for name in timm.list_models() if TIMM_TRANSFORMERS.match(name)}
    modules = ("vision_transformer", "vision_transformer_hybrid", "vitamin", "eva")
    theirs = {name for module in modules for name in timm.list_models(module=module)}
    assert ours == {name for name in theirs if not name.startswith("test_") and "rope_mixed" not in name}


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_the_last_exit_is_the_encoder_bit_for_bit_and_images_may_be_dropped(name):
    torch.manual_seed(0)
    cfg = architecture(name)
    visual = _build_vision_tower(cfg["embed_dim"], cfg["vision_cfg"] | SMALL.get(name, {})).eval().requires_grad_(False)
    tower = as_tower(visual)
    images = torch.randn(2, 3, *tower.image_size)
    whole = visual(images)
    state = tower.stem(images)
    kept = []
    for k in range(tower.depth):
        state = tower.block(k, state)
        kept = [tower.block(k, part) for part in kept]
        kept.append(state[[1]])
    whole = whole[0] if isinstance(whole, tuple) else whole
    assert torch.equal(tower.finish(state), whole)
    assert torch.isfinite(whole).all()
    for part in kept:
        assert torch.allclose(tower.finish(part), whole[[1]], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_summaries_of_every_family_have_the_requested_grids(name):
    tower = as_tower(on_meta(architecture(name)).eval().requires_grad_(False))
    state = tower.stem(torch.empty(2, 3, *tower.image_size, device="meta"))
    for k in range(tower.depth):
        state = tower.block(k, state)
        assert tower.summarise(state, (0, 1, 2)).shape == (2, 1 + 1 + 4, tower.widths[k])
        assert tower.summarise(state, ()).shape == tower.summarise(state, (0,)).shape == (2, 1, tower.widths[k])


SMALL = {"ViT-L-14-CLIPA": {"layers": 3, "image_size": 112}, "coca_ViT-B-32": {"layers": 4}}


def test_a_tower_is_refused_by_name():
    with pytest.raises(
        UserError, match="backbone model 'convnext_base' is not supported: .* timm's convnext_base; supp"
    ):
        build_image_tower({"model": "convnext_base", "pretrained": "random"})
