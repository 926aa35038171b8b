import random

import numpy as np
import pytest
import torch
from conftest import DEMO, ROOT

from tgems.backbones.load import load_backbone
from tgems.backbones.references import backbone_files, model_config, weights_form
from tgems.backbones.source import read_config
from tgems.errors import UserError


def test_demo_backbone_loads_like_any_other(demo_backbone):
    assert len(demo_backbone.model.visual.transformer.resblocks) == 8
    assert 1 < demo_backbone.logit_scale <= 100
    assert not any(p.requires_grad for p in demo_backbone.model.parameters())


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        (None, "local-dir:/no/such/folder", "does not exist"),
        (None, "openai", "has no model; set 'model' to an architecture"),
        ("ViT-B-33", "openai", "'ViT-B-33': open_clip has no such architecture; did you mean 'ViT-B-3"),
        (
            "ViT-B-32",
            "no/such.pt",
            "there is no such file; for weights on the Hugging Face hub, write 'hf-hub:no/such",
        ),
        ("ViT-B-32", str(ROOT / "README.md"), "expected a file that ends in .safetensors"),
        ("ViT-B-32", DEMO["pretrained"], "has embed_dim 512, but the weights .* have embed_dim 64"),
    ],
)
def test_bad_entries_are_refused_in_one_line(model, pretrained, message):
    with pytest.raises(UserError, match=message):
        model_config({"model": model, "pretrained": pretrained})


@pytest.mark.parametrize(
    ("model", "tag", "wanted"),
    [
        ("ViT-B-32", "openai", "were trained with QuickGELU; write 'model: ViT-B-32-quickgelu'"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "knows no weights .laion2b_s34b_b79k. for .ViT-B-32-quickgelu."),
    ],
)
def test_activation_mismatch_is_an_error_before_any_download(model, tag, wanted):
    with pytest.raises(UserError, match=wanted):
        load_backbone({"model": model, "pretrained": tag})


def test_a_checkpoint_file_gets_the_preprocessing_of_published_weights(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.touch()
    siglip, plain = (
        read_config({"model": model, "pretrained": str(file)}).preprocess_cfg
        for model in ("ViT-B-16-SigLIP", "ViT-B-32")
    )
    assert siglip.mean == (0.5, 0.5, 0.5) and siglip.resize_mode == "squash"
    assert plain.mean[0] == pytest.approx(0.4815, abs=1e-3)


@pytest.mark.parametrize(
    ("pretrained", "form"),
    [
        ("random", "random"),
        ("laion2b_s34b_b79k", "tag"),
        ("hf-hub:laion/x", "hf-hub"),
        ("local-dir:x", "local-dir"),
        ("models/x.pt", "file"),
    ],
)
def test_the_form_of_weights_follows_from_their_name(pretrained, form):
    assert weights_form(pretrained) == form


def test_files_of_a_backbone_are_named():
    folder = DEMO["pretrained"].removeprefix("local-dir:")
    assert backbone_files(DEMO) == [f"{folder}/open_clip_config.json", f"{folder}/open_clip_model.safetensors"]
    assert backbone_files({"pretrained": "local-dir:none"})[1] == "none/open_clip_model.safetensors"
    assert backbone_files({"pretrained": "a/b.pt"}) == ["a/b.pt"] and backbone_files({"pretrained": "openai"}) == []


def test_random_weights_are_the_same_each_time():
    first, second = (load_backbone({"model": "ViT-S-32", "pretrained": "random"}).weights_digest for _ in range(2))
    assert first == second


@pytest.mark.parametrize("model", ["ViT-B-32", "RN50", "coca_ViT-B-32", "EVA02-B-16"])
def test_random_weights_leave_the_callers_random_generators_as_they_were(model):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = load_backbone({"model": model, "pretrained": "random"}).weights_digest
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    torch.rand(3)
    assert load_backbone({"model": model, "pretrained": "random"}).weights_digest == first


def test_no_random_weight_is_what_memory_held_before(monkeypatch):
    """Uninitialised memory is filled with NaN where torch is deterministic."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        model = load_backbone({"model": "coca_ViT-B-32", "pretrained": "random"}).model
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(value.isfinite().all() for value in model.parameters())
