import pytest
from conftest import DEMO, ROOT

from tgems.backbones.config import model_config
from tgems.backbones.load import load_backbone
from tgems.errors import UserError


def test_demo_backbone_loads_like_any_other(demo_backbone):
    assert len(demo_backbone.model.visual.transformer.resblocks) == 8
    assert 1 < demo_backbone.logit_scale <= 100
    assert not any(p.requires_grad for p in demo_backbone.model.parameters())


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        (None, "local-dir:/no/such/folder", "does not exist"),
        (None, "openai", "no model; name open_clip's architecture"),
        ("ViT-B-33", "openai", "'ViT-B-33': open_clip has no such architecture; did you mean 'ViT-B-3"),
        (
            "ViT-B-32",
            "no/such.pt",
            "there is no such file; weights of the Hugging Face hub are written 'hf-hub:no/such",
        ),
        ("ViT-B-32", str(ROOT / "README.md"), "expected a file that ends in .safetensors"),
        ("ViT-B-32", DEMO["pretrained"], "has embed_dim 512, but the weights .* are of embed_dim 64"),
    ],
)
def test_bad_entries_are_named(model, pretrained, message):
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


def test_random_weights_are_the_same_each_time():
    first, second = (load_backbone({"model": "ViT-B-32", "pretrained": "random"}).weights_digest for _ in range(2))
    assert first == second
