"""Loading a backbone runs no code from its folder or its repository.

The first tests let the libraries beneath run each canary (tests/hostile.py), so that one that cannot run is noticed;
the others go the same ways through tgems.
"""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from data.hub_server import use
from hostile import CONFIG, PICKLES, WEIGHTS, backbone, edit, refused, write_remote_code, write_tokenizer

from tgems.backbones import source
from tgems.backbones.load import load_backbone
from tgems.errors import UserError
from tgems.provenance import read_json


def test_open_clip_runs_code_of_a_folder(demo_folder, canary):
    import open_clip

    write_remote_code(demo_folder, canary)
    edit(demo_folder, hf_tokenizer_name="any", tokenizer_kwargs={"trust_remote_code": True})
    with pytest.raises(Exception):  # noqa: B017  # the code has run, and is no tokenizer
        open_clip.get_tokenizer(f"local-dir:{demo_folder}")
    assert canary.ran


@pytest.mark.parametrize("of", ["AutoTokenizer", "AutoConfig"])
def test_transformers_runs_code_of_a_repository(tmp_path, canary, monkeypatch, of):
    import transformers

    repository = write_remote_code(tmp_path / "remote", canary)
    with use({"evil/canary": repository}, monkeypatch):
        try:
            getattr(transformers, of).from_pretrained("evil/canary", trust_remote_code=True)
        except Exception:  # the code has run; what comes of it does not matter
            pass
    assert canary.ran


def test_pickles_run_code(tmp_path, canary):
    for form, write in PICKLES.items():
        canary.path.unlink(missing_ok=True)
        write(tmp_path / "p", canary)
        with open(tmp_path / "p", "rb") as file:
            if form == "npz":
                np.load(file, allow_pickle=True)["a"]
            else:
                torch.load(file, weights_only=False) if form != "plain" else pickle.load(file)
        assert canary.ran, form


@pytest.mark.parametrize(
    ("text_cfg", "message"),
    [
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "unknown key 'trust_remote_code' at .*tokenizer_kwargs"),
        ({"tokenizer_kwargs": {"auto_map": {"AutoTokenizer": ["canary.C", None]}}}, "unknown key 'auto_map'"),
        ({"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}, "unknown key 'bpe_path'"),
        ({"tokenizer_kwargs": {"clean": "eval"}}, "tokenizer_kwargs.clean is 'eval'"),
        ({"tokenizer_kwargs": ["trust_remote_code"]}, "tokenizer_kwargs is "),
        ({"trust_remote_code": True}, "unknown key 'trust_remote_code' at model_cfg.text_cfg"),
        ({"hf_tokenizer_name": "."}, "hf_tokenizer_name is '.'"),
        ({"hf_tokenizer_name": "../backbone"}, "hf_tokenizer_name is '../backbone'"),
        ({"hf_tokenizer_name": "/backbone"}, "hf_tokenizer_name is '/backbone'"),
        ({"hf_tokenizer_name": "a/b/c"}, "hf_tokenizer_name is 'a/b/c'"),
        ({"hf_tokenizer_name": r"\\host\share"}, "hf_tokenizer_name is "),
        ({"hf_tokenizer_name": "https://evil/x"}, "hf_tokenizer_name is "),
        ({"hf_model_name": "./backbone"}, "hf_model_name is './backbone'"),
        ({"tokenizer_mode": "code"}, "tokenizer_mode is 'code'"),
    ],
)
def test_a_configuration_cannot_ask_for_code_or_paths(demo_folder, canary, text_cfg, message):
    write_remote_code(demo_folder, canary)
    edit(demo_folder, **{"hf_tokenizer_name": "any/name"} | text_cfg)
    line = refused(canary, load_backbone, backbone(demo_folder))
    assert str(demo_folder / CONFIG) in line
    pytest.raises(UserError, load_backbone, backbone(demo_folder)).match(message)


def test_a_tokenizer_is_never_read_from_the_folder_of_the_weights(demo_folder, canary, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_remote_code(demo_folder, canary)
    edit(demo_folder, hf_tokenizer_name="any/name")
    assert "tokenizer 'any/name' cannot be loaded" in refused(canary, load_backbone, backbone(demo_folder))
    monkeypatch.chdir(demo_folder.parent)
    edit(demo_folder, hf_tokenizer_name=demo_folder.name)
    line = refused(canary, load_backbone, backbone(demo_folder))
    assert (
        f"'{demo_folder.name}' is a repository on the Hugging Face hub, but {demo_folder} would be read instead" in line
    )
    edit(demo_folder, hf_tokenizer_name="", hf_model_name=demo_folder.name)
    assert "would be read instead" in refused(canary, load_backbone, backbone(demo_folder))


def test_a_tokenizer_folder_that_the_user_chooses_runs_no_code(demo_folder, tmp_path, canary):
    write_remote_code(tmp_path / "tokenizer", canary)
    line = refused(canary, load_backbone, backbone(demo_folder, tokenizer=f"local-dir:{tmp_path}/tokenizer"))
    assert (
        "tokenizer_config.json: auto_map is " in line and "use a tokenizer that does not need code of its own" in line
    )
    line = refused(canary, load_backbone, backbone(demo_folder, tokenizer=f"local-dir:{tmp_path}/none"))
    assert "none does not exist" in line


def test_a_tokenizer_folder_that_the_user_chooses_is_used(demo_folder, tmp_path, canary):
    write_tokenizer(tmp_path / "tokenizer")
    built = load_backbone(backbone(demo_folder, tokenizer=f"local-dir:{tmp_path}/tokenizer"))
    tokens = built.tokenizer(["a red four"])
    assert tokens.shape == (1, read_json(demo_folder / CONFIG)["model_cfg"]["text_cfg"]["context_length"])
    assert tokens[0, :4].tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("text_cfg", [{"hf_tokenizer_name": "evil/canary"}, {"hf_model_name": "evil/canary"}])
def test_a_repository_named_in_a_configuration_runs_no_code(demo_folder, tmp_path, canary, monkeypatch, text_cfg):
    repository = write_remote_code(tmp_path / "remote", canary)
    edit(demo_folder, **text_cfg)
    with use({"evil/canary": repository}, monkeypatch) as hub:
        line = refused(canary, load_backbone, backbone(demo_folder))
        assert hub.downloads(), "it was asked for"
    assert "'evil/canary' cannot be loaded without running code of its own" in line


def test_a_text_tower_names_no_kernel(demo_folder, tmp_path, canary, monkeypatch):
    edit(demo_folder, hf_model_name="evil/canary")
    (tmp_path / "remote").mkdir()
    for more, message in (
        ({"model_type": "bert", "attn_implementation": "evil/kernel"}, "asks for the attention 'evil/kernel'"),
        ({"model_type": "gpt2"}, "has type 'gpt2'; open_clip supports roberta"),
    ):
        (tmp_path / "remote/config.json").write_text(json.dumps(more))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with use({"evil/canary": tmp_path / "remote"}, monkeypatch):
            assert message in refused(canary, load_backbone, backbone(demo_folder))


def test_a_hub_backbone_runs_no_code(demo_folder, canary, monkeypatch):
    monkeypatch.setattr(source, "check_same", lambda *_: None)  # the demo has no name among open_clip's architectures
    write_remote_code(demo_folder, canary)
    edit(demo_folder, hf_tokenizer_name="evil/canary", tokenizer_kwargs={"trust_remote_code": True})
    with use({"evil/canary": demo_folder}, monkeypatch) as hub:
        entry = {"model": "ViT-B-32", "pretrained": "hf-hub:evil/canary"}
        assert "unknown key 'trust_remote_code'" in refused(canary, load_backbone, entry)
        assert hub.downloads() == [CONFIG], "weights are not even fetched"
        edit(demo_folder, tokenizer_kwargs={})
        shutil.rmtree(demo_folder.parent / "cache")
        assert "without running code of its own" in refused(canary, load_backbone, entry)
    for name in ("../backbone", "/etc", "a/b/c", ""):
        entry = {"model": "ViT-B-32", "pretrained": f"hf-hub:{name}"}
        assert "write 'hf-hub:ORG/REPO'" in refused(canary, load_backbone, entry)


@pytest.mark.parametrize("form", PICKLES)
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth", ".safetensors"])
def test_a_pickle_is_not_executed(demo_folder, tmp_path, canary, form, suffix):
    PICKLES[form](tmp_path / f"weights{suffix}", canary)
    line = refused(canary, load_backbone, {"model": "ViT-B-32", "pretrained": f"{tmp_path}/weights{suffix}"})
    assert f"weights{suffix}" in line and ("convert them to .safetensors" in line or "download or copy it" in line)
    if suffix == ".pt":
        return
    (demo_folder / WEIGHTS).unlink()
    shutil.copy(tmp_path / f"weights{suffix}", demo_folder / f"open_clip_pytorch_model{suffix}")
    assert f"open_clip_pytorch_model{suffix}" in refused(canary, load_backbone, backbone(demo_folder))


def test_an_npz_is_not_taken_for_weights(demo_folder, tmp_path, canary):
    PICKLES["npz"](tmp_path / "weights.npz", canary)
    entry = {"model": "ViT-B-32", "pretrained": f"{tmp_path}/weights.npz"}
    assert "expected a file that ends in .safetensors" in refused(canary, load_backbone, entry)
    (demo_folder / WEIGHTS).unlink()
    shutil.copy(tmp_path / "weights.npz", demo_folder / "weights.npz")
    assert f"{demo_folder / WEIGHTS}: missing" in refused(canary, load_backbone, backbone(demo_folder))


def test_an_unknown_program_is_not_opened(demo_folder, canary):
    (demo_folder / WEIGHTS).unlink()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(demo_folder / "model.pth"))
    assert "a TorchScript program that is not one of OpenAI's" in refused(canary, load_backbone, backbone(demo_folder))


def test_a_link_out_of_a_folder_is_not_followed(demo_folder, tmp_path, canary):
    for name in (WEIGHTS, CONFIG):
        shutil.move(demo_folder / name, tmp_path / name)
        (demo_folder / name).symlink_to(tmp_path / name)
        line = refused(canary, load_backbone, backbone(demo_folder))
        assert f"{demo_folder / name}: a link to {tmp_path / name}, outside its folder" in line
    (demo_folder / CONFIG).unlink()
    (demo_folder / CONFIG).symlink_to("/dev/zero")
    assert "not a regular file" in refused(canary, load_backbone, backbone(demo_folder))
    (demo_folder / CONFIG).unlink()
    (demo_folder / CONFIG).symlink_to(demo_folder / "inner.json")
    (tmp_path / CONFIG).rename(demo_folder / "inner.json")
    (demo_folder / WEIGHTS).unlink()
    (tmp_path / WEIGHTS).rename(demo_folder / WEIGHTS)
    assert load_backbone(backbone(demo_folder)).blocks, "a link within the folder is"
