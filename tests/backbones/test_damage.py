"""A damaged folder of a backbone gives one line that names the file, and never a traceback."""

import json
import os
from pathlib import Path

import pytest
import torch
from hostile import CONFIG, FOLDER, WEIGHTS, anything, backbone, places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tgems.architectures.catalog import check_supported
from tgems.backbones.load import build_image_tower, load_backbone
from tgems.backbones.references import model_config
from tgems.errors import UserError
from tgems.provenance import read_json


def text(content: str | bytes):
    """The configuration is this."""
    return lambda folder: (folder / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())


def change(*path: str, to):
    """One value of the configuration is another; `...` takes the key away."""

    def apply(folder: Path) -> None:
        config = read_json(folder / CONFIG)
        inner = config
        for key in path[:-1]:
            inner = inner[key]
        inner.pop(path[-1]) if to is ... else inner.update({path[-1]: to})
        (folder / CONFIG).write_text(json.dumps(config))

    return apply


def vision(key: str, to):
    return change("model_cfg", "vision_cfg", key, to=to)


def tensors(edit):
    """The weights are others."""

    def apply(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        edit(state)
        save_file(state, folder / WEIGHTS)

    return apply


def torch_file(content):
    """The weights are what `torch.save` makes of a value."""

    def apply(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        torch.save(content, folder / "model.pth")

    return apply


def zeroed(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))


def directory(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()


VALID = "not valid JSON"
CONFIGURATIONS = {
    "empty": (text(""), VALID),
    "truncated": (text('{"model_cfg": {"embed_dim": 6'), VALID),
    "binary": (text(b"\x93NUMPY\x00\xff\xfe"), VALID),
    "UTF-16": (text('{"model_cfg": {}}'.encode("utf-16")), VALID),
    "deep lists": (text("[" * 100_000 + "]" * 100_000), VALID),
    "deep objects": (text('{"model_cfg":' * 100_000), VALID),
    "list": (text("[1]"), r"it is \[1\]: input should be an object"),
    "null": (text("null"), "it is None: input should be an object"),
    "number": (text("7"), "it is 7"),
    "huge": (text(b" " * (17 * 2**20)), "larger than 16 MB"),
    "a folder": (directory, "not a regular file"),
    "missing": (lambda folder: (folder / CONFIG).unlink(), "missing; download or copy"),
    "no model_cfg": (change("model_cfg", to=...), "key 'model_cfg' is missing at the top level"),
    "model_cfg a list": (change("model_cfg", to=[]), r"model_cfg is \[\]"),
    "model_cfg empty": (change("model_cfg", to={}), "key 'embed_dim' is missing at model_cfg"),
    "no vision_cfg": (change("model_cfg", "vision_cfg", to=...), "key 'vision_cfg' is missing at model_cfg"),
    "vision_cfg null": (change("model_cfg", "vision_cfg", to=None), "vision_cfg is None"),
    "text_cfg a number": (change("model_cfg", "text_cfg", to=3), "text_cfg is 3"),
    "unknown key": (
        change("model_cfg", "vison_cfg", to={}),
        "unknown key 'vison_cfg' at model_cfg; did you mean 'vision",
    ),
    "unknown inner key": (vision("widht", 64), "unknown key 'widht' at model_cfg.vision_cfg; did you mean 'width'"),
    "unknown outer key": (change("preproces_cfg", to={}), "unknown key 'preproces_cfg' at the top level; did you mean"),
    "layers a word": (vision("layers", "twelve"), "vision_cfg.layers is 'twelve'"),
    "layers negative": (vision("layers", -1), "vision_cfg.layers is -1"),
    "layers absurd": (vision("layers", 10**9), "vision_cfg.layers is 10"),
    "layers endless": (text('{"model_cfg": {"embed_dim": 1' + "0" * 10_000 + "}}"), VALID),
    "layers true": (vision("layers", True), "vision_cfg.layers is True"),
    "width a fraction": (vision("width", 64.5), "vision_cfg.width is 64.5"),
    "width none": (vision("width", 0), "vision_cfg.width is 0"),
    "width NaN": (vision("mlp_ratio", float("nan")), "mlp_ratio is "),
    "width infinite": (vision("mlp_ratio", float("inf")), "mlp_ratio is "),
    "no head": (vision("head_width", 10_000), "open_clip cannot build the architecture"),
    "patches do not fit": (vision("patch_size", 7), "do not fit|cannot build"),
    "norm_kwargs": (vision("norm_kwargs", {"eps": 1e-6, "device": "cuda"}), "unknown key 'device' at .*norm_kwargs"),
    "act_kwargs": (vision("act_kwargs", {"approximate": "__import__"}), "approximate is '__import__'"),
    "timm by path": (vision("timm_model_name", "local-dir:/tmp/x"), "timm_model_name is 'local-dir:/tmp/x'"),
    "timm by hub": (vision("timm_model_name", "hf-hub:evil/vit_x"), "timm_model_name is 'hf-hub:evil/vit_x'"),
    "timm unknown": (vision("timm_model_name", "vit_none"), "open_clip cannot build the architecture"),
    "timm unsupported": (vision("timm_model_name", "resnet50"), "is not supported: its image tower is timm's resnet50"),
    "preprocess_cfg a list": (change("preprocess_cfg", to=[1]), r"preprocess_cfg is \[1\]"),
    "mean of two": (change("preprocess_cfg", "mean", to=[0.5, 0.5]), "preprocess_cfg.mean"),
    "std zero": (change("preprocess_cfg", "std", to=[0, 1, 1]), "preprocess_cfg.std.0 is 0"),
    "interpolation": (change("preprocess_cfg", "interpolation", to="eval"), "interpolation is 'eval'"),
    "mode": (change("preprocess_cfg", "mode", to="CMYK"), "mode is 'CMYK'"),
    "text width": (change("model_cfg", "text_cfg", "width", to=24), "do not fit|cannot build"),
}
WEIGHT_FILES = {
    "truncated": (lambda folder: os.truncate(folder / WEIGHTS, 5000), "not a complete safetensors file"),
    "empty": (lambda folder: os.truncate(folder / WEIGHTS, 0), "not a complete safetensors file"),
    "zeroed": (zeroed, "not a complete safetensors file"),
    "text": (lambda folder: (folder / WEIGHTS).write_text("weights"), "not a complete safetensors file"),
    "header too long": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64), "not a complete safetensors file"),
    "missing": (lambda folder: (folder / WEIGHTS).unlink(), "open_clip_model.safetensors: missing"),
    "no tensor": (tensors(dict.clear), "contain no tensors"),
    "one missing": (tensors(lambda state: state.pop("visual.proj")), "do not fit .*visual.proj"),
    "one too many": (tensors(lambda state: state.update(more=torch.zeros(2))), "do not fit .*more"),
    "wrong shape": (
        tensors(lambda state: state.update({"visual.proj": torch.zeros(2, 2)})),
        "do not fit .*visual.proj",
    ),
    "wrong positions": (
        tensors(lambda state: state.update({"visual.positional_embedding": torch.zeros(4)})),
        "do not fit",
    ),
    "all scalars": (tensors(lambda state: state.update({k: torch.zeros(()) for k in state})), "do not fit"),
    "a list": (torch_file([torch.zeros(1)]), "not tensors by name"),
    "a number": (torch_file({"state_dict": 7}), "not tensors by name"),
    "a tensor": (torch_file(torch.zeros(3)), "not tensors by name"),
    "numbered": (torch_file({1: torch.zeros(3)}), "not tensors by name"),
    "nothing": (torch_file({}), "contain no tensors"),
}


CASES = {f"{kind}: {case}": damaged for kind, cases in
         (("config", CONFIGURATIONS), ("weights", WEIGHT_FILES)) for case, damaged in cases.items()}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_damage_gives_one_clear_line(demo_folder, case):
    damage, message = CASES[case]
    damage(demo_folder)
    with pytest.raises(UserError, match=message) as error:
        load_backbone(backbone(demo_folder))
    assert "\n" not in str(error.value) and str(demo_folder) in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_dry_run_and_the_count_of_macs_refuse_it_too(demo_folder, case):
    """A dry run reads only the configuration, so that sizes which do not fit together are found when building."""
    damage, message = CONFIGURATIONS[case]
    damage(demo_folder)
    for read, cannot_see in (
        (lambda entry: check_supported(model_config(entry), "x"), ("cannot build", "do not fit")),
        (lambda entry: build_image_tower(entry, "meta"), ("do not fit",)),
    ):
        if any(words in message for words in cannot_see):
            continue
        with pytest.raises(UserError, match=message) as error:
            read(backbone(demo_folder))
        assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_of_any_key_gives_a_traceback(demo_folder, data):
    config = read_json(FOLDER / CONFIG)
    *path, last = data.draw(st.sampled_from([place for place in places(config) if place]))
    inner = config
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(anything)
    (demo_folder / CONFIG).write_text(json.dumps(config))
    try:
        load_backbone(backbone(demo_folder))
    except UserError as error:
        assert "\n" not in str(error) and str(demo_folder) in str(error)
