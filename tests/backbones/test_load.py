import pytest

from tgems.backbones.config import model_config
from tgems.backbones.load import load_backbone
from tgems.errors import UserError


def test_demo_backbone_loads_like_any_other(demo_backbone):
    assert len(demo_backbone.model.visual.transformer.resblocks) == 8
    assert 1 < demo_backbone.logit_scale <= 100
    assert not any(p.requires_grad for p in demo_backbone.model.parameters())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:somewhere", "expected 'local-dir:FOLDER' or 'open_clip:"),
        ("local-dir:/no/such/folder", "does not exist"),
        ("open_clip:ViT-B-32", "expected a pretrained tag"),
        ("open_clip:ViT-B-33/openai", "no architecture 'ViT-B-33'"),
    ],
)
def test_bad_sources_are_named(source, message):
    with pytest.raises(UserError, match=message):
        model_config(source)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32-quickgelu/openai"),
        (
            "open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k",
            "knows no weights .laion2b_s34b_b79k. for .ViT-B-32-quickgelu.",
        ),
    ],
)
def test_activation_mismatch_is_an_error_before_any_download(source, wanted):
    with pytest.raises(UserError, match=wanted):
        load_backbone(source)


def test_random_weights_are_the_same_each_time():
    first, second = (load_backbone("open_clip:ViT-B-32/random").weights_digest for _ in range(2))
    assert first == second
