"""Weights of a file: what is loaded is what was saved, and nothing is executed. Small models under built-in names."""

import pickle

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from tgems.backbones import checkpoint
from tgems.backbones.checkpoint import OPENAI_KEYS, load_checkpoint, openai_state
from tgems.backbones.load import load_backbone
from tgems.errors import UserError
from tgems.provenance import digest_file

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def small(seed: int = 0) -> CLIP:
    torch.manual_seed(seed)
    return CLIP(**CONFIG)


def same(a: CLIP, b: CLIP) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class Program(torch.nn.Module):
    """A state as OpenAI's archives hold it."""

    def __init__(self, model: CLIP):
        super().__init__()
        for name, value in model.state_dict().items():
            self.register_buffer(name.replace(".", "_"), value)

    def forward(self, x):
        return x


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_a_saved_state_is_loaded(tmp_path, suffix):
    path, saved, model = str(tmp_path / f"weights{suffix}"), small(1), small(2)
    if suffix == ".safetensors":
        save_file(saved.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": saved.state_dict()}, path)
    load_checkpoint(model, "ViT-B-32", path)
    assert same(model, saved)


def test_openais_state_needs_quickgelu(tmp_path):
    path, saved, model = str(tmp_path / "weights.pt"), small(1), small(2)
    torch.save(saved.state_dict() | {key: torch.tensor(32) for key in OPENAI_KEYS}, path)
    with pytest.raises(UserError, match="OpenAI's, trained with QuickGELU.*write 'model: ViT-B-32-quickgelu'"):
        load_checkpoint(model, "ViT-B-32", path)
    load_checkpoint(model, "ViT-B-32-quickgelu", path)
    assert same(model, saved)


class Harm:
    def __reduce__(self):
        return open, ("/tmp/harm", "w")


def test_a_pickle_is_not_executed(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(UserError, match="are not tensors alone .*; convert them to .safetensors"):
        openai_state(str(path))
    torch.save({"state_dict": small().state_dict(), "args": Harm()}, path)
    with pytest.raises(UserError, match="are not tensors alone") as error:
        openai_state(str(path))
    assert "\n" not in str(error.value)


def test_a_program_is_loaded_only_where_openai_published_it(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    torch.jit.save(torch.jit.script(Program(small())), str(path))
    with pytest.raises(UserError, match="a TorchScript program that is none of OpenAI's releases"):
        openai_state(str(path))
    monkeypatch.setattr(checkpoint, "published_digests", lambda: {digest_file(path)})
    assert "visual_conv1_weight" in openai_state(str(path))


def test_openais_digests_are_known():
    digests = checkpoint.published_digests()
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in digests  # ViT-B/32
    assert all(len(digest) == 64 for digest in digests)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    save_file({"positional_embedding": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="do not fit 'ViT-B-32'") as error:
        load_checkpoint(small(), "ViT-B-32", path)
    assert "\n" not in str(error.value)


def test_without_network_the_two_ways_are_told(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Failed to download weights for tag 'laion2b_s34b_b79k'\nlong trace")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", fail)
    with pytest.raises(UserError, match="connect to the internet, or name a copy by 'pretrained: FILE'") as error:
        load_backbone({"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"})
    assert "laion2b_s34b_b79k" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("quick_gelu", "message"), [(True, "has quick_gelu False"), (False, None)])
def test_a_hubs_configuration_is_compared_with_the_model(monkeypatch, quick_gelu, message):
    own = open_clip.get_model_config("ViT-B-32")
    held = own | {"quick_gelu": quick_gelu, "vision_cfg": own["vision_cfg"] | {"mlp_ratio": 4.0}}
    fetched = open_clip.get_model_config
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: held if ":" in name else fetched(name))

    def fail(*_, **__):
        raise OSError("nothing is fetched here")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", fail)
    with pytest.raises(UserError, match=message or "nothing is fetched here"):
        load_backbone({"model": "ViT-B-32", "pretrained": "hf-hub:laion/some"})


def test_a_tokenizer_that_cannot_be_fetched_is_named(monkeypatch):
    def fail(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with pytest.raises(UserError, match="tokenizer of backbone 'ViT-S-32-alt' cannot be loaded: no connection; con"):
        load_backbone({"model": "ViT-S-32-alt", "pretrained": "random"})
