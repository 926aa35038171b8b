"""Weights of a file: what is loaded is what was saved. Small models under built-in names."""

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from tgems.backbones import checkpoint
from tgems.backbones.checkpoint import OPENAI_KEYS, load_checkpoint, read_state
from tgems.errors import UserError
from tgems.provenance import digest_file, digest_tensors

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
    load_checkpoint(model, path, "ViT-B-32", quick_gelu=False)
    assert same(model, saved)


def test_a_digest_depends_on_the_numbers_and_not_on_the_file(tmp_path):
    saved = small(1)
    save_file(saved.state_dict(), tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in saved.state_dict().items()}}, tmp_path / "a.pt")
    save_file({k: v.half() for k, v in saved.state_dict().items()}, tmp_path / "half.safetensors")
    digests = [digest_tensors(read_state(tmp_path / f"{name}").items()) for name in ("a.safetensors", "a.pt")]
    assert digests == [digest_tensors(saved.state_dict().items())] * 2
    half = read_state(tmp_path / "half.safetensors")
    assert digest_tensors(half.items()) == digest_tensors(small(1).half().float().state_dict().items()) != digests[0]


def test_openais_state_needs_quickgelu(tmp_path):
    path, saved, model = str(tmp_path / "weights.pt"), small(1), small(2)
    torch.save(saved.state_dict() | {key: torch.tensor(32) for key in OPENAI_KEYS}, path)
    with pytest.raises(UserError, match="OpenAI's, trained with QuickGELU.*write 'model: ViT-B-32-quickgelu'"):
        load_checkpoint(model, path, "ViT-B-32", quick_gelu=False)
    load_checkpoint(model, path, "ViT-B-32-quickgelu", quick_gelu=True)
    assert same(model, saved)


def test_a_program_is_loaded_only_if_openai_published_it(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    torch.jit.save(torch.jit.script(Program(small())), str(path))
    with pytest.raises(UserError, match="a TorchScript program that is not one of OpenAI's releases"):
        read_state(path)
    monkeypatch.setattr(checkpoint, "published_digests", lambda: {digest_file(path)})
    assert "visual_conv1_weight" in read_state(path)


def test_openais_digests_are_known():
    digests = checkpoint.published_digests()
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in digests  # ViT-B/32
    assert all(len(digest) == 64 for digest in digests)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    save_file({"positional_embedding": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="do not fit 'ViT-B-32'") as error:
        load_checkpoint(small(), path, "ViT-B-32", quick_gelu=False)
    assert "\n" not in str(error.value)
