"""Sources of backbones: tags, repositories and folders, and what is compared before anything is built from them."""

import json
import shutil
from dataclasses import fields
from inspect import signature

import open_clip
import pytest
import torch
from conftest import DEMO, ROOT
from data.hub_server import use
from hostile import write_tokenizer
from open_clip.coca_model import MultimodalCfg
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file

from tgems.architectures import open_clip_config as allowed
from tgems.architectures.catalog import read_architecture
from tgems.backbones import load, source
from tgems.backbones.load import load_backbone
from tgems.backbones.references import checkpoint_in, folder_config
from tgems.backbones.source import find_source
from tgems.backbones.tokenizer import build_tokenizer
from tgems.errors import UserError

FOLDER = ROOT / "assets/backbones/demo-vit-8"
NEW_KEYS = (
    f"open_clip {open_clip.__version__} has other keys or defaults than tgems/architectures/open_clip_config.py; "
    "add new keys there with the values that are safe in untrusted files"
)


def without_network(*_, **__):
    raise OSError("no connection\nlong trace")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (allowed.VisionConfig, open_clip.CLIPVisionCfg),
        (allowed.TextConfig, open_clip.CLIPTextCfg),
        (allowed.MultimodalConfig, MultimodalCfg),
        (allowed.PreprocessConfig, PreprocessCfg),
    ],
)
def test_allowed_keys_are_open_clips(ours, theirs):
    assert set(ours.model_fields) == {field.name for field in fields(theirs)}, NEW_KEYS
    if ours in (allowed.VisionConfig, allowed.TextConfig):
        assert {f.name: f.default for f in fields(theirs)} == ours().model_dump(), NEW_KEYS


def test_allowed_keys_of_a_model_are_arguments_of_open_clips_classes():
    classes = (open_clip.CLIP, open_clip.CustomTextCLIP, open_clip.CoCa)
    known = {name for cls in classes for name in signature(cls).parameters} - {"cast_dtype"}
    assert set(allowed.ModelConfig.model_fields) == known | {"custom_text"}, NEW_KEYS


def test_every_architecture_of_open_clip_is_allowed():
    for name in open_clip.list_models():
        config = read_architecture(name)
        assert json.loads(config.model_dump_json(exclude_unset=True)) == open_clip.get_model_config(name)
        assert config.differs(config) is None


def test_a_backbone_is_what_open_clip_loads_from_the_folder():
    ours = load_backbone(DEMO)
    theirs, _, preprocess = open_clip.create_model_and_transforms(DEMO["pretrained"])
    assert type(ours.model) is type(theirs) and str(ours.preprocess) == str(preprocess)
    assert ours.model.visual.preprocess_cfg == theirs.visual.preprocess_cfg
    state = theirs.state_dict()
    assert state.keys() == ours.model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in ours.model.state_dict().items())
    texts = ["a red four", "ÀÉ, two  EIGHTS"]
    assert torch.equal(ours.tokenizer(texts), open_clip.get_tokenizer(DEMO["pretrained"])(texts))


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B-16-plus-240", "RN50", "coca_ViT-B-32", "ViT-L-14-CLIPA", "EVA02-B-16"]
)
def test_a_model_is_of_the_class_and_preprocessing_that_open_clip_chooses(name):
    with torch.device("meta"):
        theirs, _, preprocess = open_clip.create_model_and_transforms(name, pretrained_text=False, device="meta")
        config = read_architecture(name)
        ours = load.build_model(config, name)
    assert type(ours) is type(theirs)
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    settings, made = load.preprocessing(allowed.OpenClipConfig(model_cfg=config))
    assert str(made) == str(preprocess) and settings == theirs.visual.preprocess_cfg


def test_loading_leaves_the_caller_s_random_generator_as_it_is():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_backbone(DEMO)
    assert torch.equal(torch.rand(3), expected)


def test_open_clips_own_tokenizers_are_built_alike():
    names = [name for name in open_clip.list_models() if not read_architecture(name).text_cfg.hf_tokenizer_name]
    assert len(names) > 90 and not [name for name in names if "siglip" in name.lower()], "open_clip goes by that name"
    seen = set()
    for name in names:
        text = read_architecture(name).text_cfg
        if (key := (text.context_length, repr(text.tokenizer_kwargs))) not in seen:
            seen.add(key)
            ours, theirs = build_tokenizer(text), open_clip.get_tokenizer(name)
            assert torch.equal(ours(["A red, four!", "x " * 99]), theirs(["A red, four!", "x " * 99])), name


def test_without_network_both_remedies_are_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", without_network)
    with pytest.raises(
        UserError, match="connect to the internet and run again, or use a local copy by 'pretrained: FILE'"
    ) as error:
        load_backbone({"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"})
    assert "laion2b_s34b_b79k" in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_that_cannot_be_fetched_is_named(monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", without_network)
    text = read_architecture("ViT-B-32-SigLIP2-256").text_cfg
    with pytest.raises(UserError, match="tokenizer 'timm/ViT-B-32-SigLIP2-256' cannot .*: no connection; connect"):
        build_tokenizer(text)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A folder that a hub serves as `me/demo`: a demo backbone, which passes for a ViT-B-32 in these tests."""
    monkeypatch.setattr(source, "check_same", lambda *_: None)
    folder = shutil.copytree(FOLDER, tmp_path / "remote")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with use({"me/demo": folder}, monkeypatch):
        yield folder


def test_a_hub_repository_is_fetched_and_built(remote, demo_backbone):
    found = load_backbone({"model": "ViT-B-32", "pretrained": "hf-hub:me/demo"})
    assert found.weights_digest == demo_backbone.weights_digest
    assert found.preprocess_digest == demo_backbone.preprocess_digest
    (remote / "open_clip_model.safetensors").unlink()
    shutil.rmtree(remote.parent / "cache")
    with pytest.raises(
        UserError, match="'hf-hub:me/demo' of 'ViT-B-32': the repository me/demo has no open_clip_model.safetensors or "
    ):
        load_backbone({"model": "ViT-B-32", "pretrained": "hf-hub:me/demo"})


@pytest.mark.parametrize(("quick_gelu", "message"), [(True, "has quick_gelu False"), (False, "has layers 12")])
def test_a_hubs_configuration_is_compared_with_the_model(remote, monkeypatch, quick_gelu, message):
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(remote.parent / "cache"))
    config = open_clip.get_model_config("ViT-B-32") | {"quick_gelu": quick_gelu}
    config["vision_cfg"]["layers"] = 12 if quick_gelu else 8
    (remote / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with use({"me/demo": remote}, monkeypatch), pytest.raises(UserError, match=message):
        find_source({"model": "ViT-B-32", "pretrained": "hf-hub:me/demo"})


def test_a_configuration_beside_a_checkpoint_file_is_compared_too(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "f")
    with pytest.raises(UserError, match="'ViT-B-32' has .*, but the weights '.*f/open_clip_model.safetensors' have"):
        find_source({"model": "ViT-B-32", "pretrained": f"{tmp_path}/f/open_clip_model.safetensors"})


def test_the_checkpoint_of_a_folder_is_the_one_that_open_clip_would_take(tmp_path):
    for name in ("b.pth", "z.safetensors", "a.bin", "pytorch_model.bin", "open_clip_pytorch_model.bin", "x.npz"):
        (tmp_path / name).touch()
        theirs = open_clip.factory._find_checkpoint_in_dir(tmp_path)
        assert str(checkpoint_in(tmp_path)) == theirs
    assert checkpoint_in(tmp_path / "none").name == "open_clip_model.safetensors"


def test_the_first_difference_that_matters_is_found():
    config = folder_config(FOLDER).model_cfg
    changed = config.model_copy(update={"quick_gelu": not config.quick_gelu})
    assert config.differs(changed) == "quick_gelu" and changed.value("quick_gelu") != config.value("quick_gelu")
    vision = config.vision_cfg.model_copy(update={"patch_dropout": 0.5})
    assert config.differs(config.model_copy(update={"vision_cfg": vision})) is None


def test_a_text_tower_and_a_tokenizer_of_transformers_are_built(demo_folder, tmp_path, canary, monkeypatch):
    """A backbone whose text tower is in a repository of its own, as in open_clip's xlm-roberta models."""
    repository = tmp_path / "remote"
    tower = {"model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower |= {"intermediate_size": 8, "max_position_embeddings": 16, "pad_token_id": 0}
    write_tokenizer(repository)
    (repository / "config.json").write_text(json.dumps(tower))
    config = json.loads((demo_folder / "open_clip_config.json").read_text())
    names = {"hf_model_name": "me/text", "hf_tokenizer_name": "me/text", "hf_proj_type": "linear", "context_length": 8}
    config["model_cfg"]["text_cfg"] = names
    (demo_folder / "open_clip_config.json").write_text(json.dumps(config))
    with use({"me/text": repository}, monkeypatch):
        text_cfg = names | {"hf_model_pretrained": False}
        theirs = open_clip.CustomTextCLIP(64, config["model_cfg"]["vision_cfg"], text_cfg).eval()
        save_file(theirs.state_dict(), demo_folder / "open_clip_model.safetensors")
        ours = load_backbone({"pretrained": f"local-dir:{demo_folder}"})
    tokens = ours.tokenizer(["a red four", "red"])
    assert tokens.tolist() == [[1, 2, 3, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0]]
    with torch.no_grad():
        assert torch.equal(ours.model.encode_text(tokens), theirs.encode_text(tokens))
