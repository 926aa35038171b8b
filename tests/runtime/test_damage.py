"""What is wrong with a T-GEM's folder is said in one line that names the file, and never in a traceback."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hostile import anything, places
from hostile import edit_t_gem as edit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime.test_cli import tgems
from safetensors.torch import load_file, save_file

from tgems.errors import UserError
from tgems.provenance import digest_file, read_json
from tgems.runtime.model import EarlyExitCLIP


def put(*path, to):
    """One value of the configuration is another; `...` takes the key away."""

    def change(config: dict) -> None:
        for key in path[:-1]:
            config = config[key]
        if to is ...:
            config.pop(path[-1])
        else:
            config[path[-1]] = to

    return lambda folder: edit(folder, change)


def text(content: str):
    """The configuration is this."""
    return lambda folder: (folder / "config.json").write_text(content)


def tensors(change):
    """Tensors are others, and the configuration knows their digest."""

    def apply(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")
        edit(folder, lambda c: c.update(model_digest=digest_file(folder / "model.safetensors")))

    return apply


def flip(folder: Path) -> None:
    """One bit of one number."""
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def spoil(state: dict) -> None:
    state[LINEAR][0, 0, 0] = float("nan")


VALID, LINEAR = "config.json: not valid JSON", "heads.linear.weight"
DAMAGE = {
    "newer": (put("format_version", to=5), "format version 5, this tgems reads 4"),
    "older": (put("format_version", to=1), "format version 1, this tgems reads 4"),
    "foreign": (put("format", to="other"), "format is 'other', not 'tgems'"),
    "unknown": (put("colour", to=1), "unknown key 'colour' at the top level; known"),
    "missing": (put("rates", to=...), "key 'rates' is missing at the top level"),
    "truncated": (lambda folder: os.truncate(folder / "config.json", 100), VALID),
    "no text": (text(""), VALID),
    "deep": (text("[" * 200_000), VALID),
    "list": (text("[1]"), r"config.json: it is \[1\]: input should be an object"),
    "half": (lambda folder: (folder / "model.safetensors").unlink(), "not a saved T-GEM, model.safetensors is missing"),
    "empty": (lambda folder: [p.unlink() for p in folder.iterdir()], "not a saved T-GEM, config.json is missing"),
    "kind": (put("modules", "heads", "kind", to="tail"), "modules.heads is .*: input tag 'tail' found"),
    "no gates": (put("modules", "gates", to=...), "modules .* are not those of policy 'tgem'"),
    "third module": (put("modules", "code", to={}), "modules"),
    "other policy": (put("policy", to="margin"), "are not those of policy 'margin'"),
    "exits": (put("modules", "heads", "n_exits", to=6), "modules.heads .* do not fit costs of 7 exits"),
    "absurd width": (put("modules", "heads", "hidden", to=2**20), "tensor '.*' of heads has shape .* but config.json"),
    "width": (put("modules", "gates", "hidden", to=3), "has shape .* but config.json describes"),
    "embed_dim": (put("modules", "heads", "embed_dim", to=63), "modules.heads.embed_dim and costs.embed_dim differ"),
    "shorter costs": (lambda folder: edit(folder, lambda c: c["costs"]["blocks"].pop()), "costs.encoder has 8 numbers"),
    "shorter heads": (
        lambda folder: edit(folder, lambda c: c["costs"]["head"].pop()),
        "costs.head has 6 numbers",
    ),
    "shorter rates": (lambda folder: edit(folder, lambda c: c["rates"].pop()), "rates has 7 numbers for 8 exits"),
    "costs of words": (put("costs", "encoder", 0, to="1"), "costs.encoder.0 is '1'"),
    "costs backwards": (lambda folder: edit(folder, lambda c: c["costs"]["blocks"].reverse()), "do not ascend"),
    "other blocks": (
        put("costs", "blocks", 7, to=9),
        r"costs are of exits .*, which the backbone of 8 blocks does not have",
    ),
    "other widths": (put("costs", "widths", 0, to=32), "costs are of exits .* of widths .32, 64"),
    "no widths": (put("modules", "heads", "widths", to=[]), r"widths \[\] do not fit 7 exits and summary_dim 320"),
    "wide": (put("costs", "widths", 0, to=100), "costs.summary_dim 320 is not a multiple"),
    "no grid": (put("costs", "summary_dim", to=192), "a summary of 3 parts does not consist of"),
    "no thresholds": (put("calibrations", to={}), r"calibrations is \{\}"),
    "NaN threshold": (put("calibrations", "scenes", "thresholds", to=[float("nan")] * 7), "scenes.thresholds.0 is "),
    "infinite threshold": (
        put("calibrations", "scenes", "thresholds", to=[float("inf")] * 7),
        "scenes.thresholds.0 is ",
    ),
    "no threshold": (put("calibrations", "scenes", "thresholds", to=None), "calibrations.scenes: thresholds None"),
    "few thresholds": (put("calibrations", "scenes", "thresholds", to=[0.5]), r"scenes: thresholds \(0.5,\) at exits"),
    "visits beyond": (put("calibrations", "scenes", "visited", to=[0, 7]), r"visited \(0, 7\) are not some of 7 exits"),
    "visits nothing": (put("calibrations", "scenes", "visited", to=[]), "are not some of 7 exits"),
    "backbone a list": (put("backbone", to=[]), r"backbone is \[\]"),
    "nameless backbone": (put("backbone", "pretrained", to=""), "backbone.pretrained is ''"),
    "zero in a name": (put("backbone", "pretrained", to="local-dir:a\0b"), "holds control characters"),
    "about deep": (put("about", "more", to={"a": {}}), "about.more"),
    "about results": (put("about", "results", 0, "value", to="high"), "about.results.0.value is 'high'"),
    "digest": (put("model_digest", to="0" * 64), "model.safetensors: truncated or altered"),
    "no digest": (put("model_digest", to=None), "model_digest is None"),
    "short digest": (put("weights", to="3067"), "weights is '3067'"),
    "flipped bit": (flip, "model.safetensors: truncated or altered"),
    "cut": (lambda folder: os.truncate(folder / "model.safetensors", 1000), "model.safetensors: truncated or altered"),
    "shape": (tensors(lambda s: s.update({LINEAR: torch.zeros(2)})), r"'linear.weight' of heads has shape \(2,\)"),
    "one missing": (tensors(lambda s: s.pop(LINEAR)), "'linear.weight' of heads has shape None"),
    "one too many": (tensors(lambda s: s.update({"heads.more": torch.zeros(2)})), "tensor 'more' of heads"),
    "a stranger": (tensors(lambda s: s.update({"other.more": torch.zeros(2)})), "'other.more' belongs to no module"),
    "not finite": (tensors(spoil), "'linear.weight' of heads holds values that are not finite"),
    "weights": (put("weights", to="f00d" * 16), "with weights f00df00df00d, but local-dir"),
    "pixels": (put("preprocess", to="none"), "with preprocess none, but local-dir"),
    "activation": (put("architecture", "quick_gelu", to=True), "with quick_gelu True, but local-dir:.* has False"),
}


def altered(saved: Path, folder: Path, case: str) -> str:
    """Alter a copy of a T-GEM; the expected message."""
    shutil.copytree(saved, folder)
    damage, message = DAMAGE[case]
    damage(folder)
    return message


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_clear_line(saved, tmp_path, demo_backbone, case):
    message = altered(saved, tmp_path / "g", case)
    with pytest.raises(UserError, match=message) as error:
        EarlyExitCLIP.from_pretrained(tmp_path / "g", backbone=demo_backbone)
    assert "\n" not in str(error.value) and str(tmp_path / "g") in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("case", [case for case in DAMAGE if "bit" not in case])
def test_info_says_what_it_can_see(saved, tmp_path, case):
    altered(saved, tmp_path / "g", case)
    seen_by_load = (
        "absurd width",
        "width",
        "digest",
        "cut",
        "weights",
        "pixels",
        "activation",
        "other blocks",
        "other widths",
    )
    tensors_alone = ("shape", "one missing", "one too many", "a stranger", "not finite")
    code = 0 if case in (*seen_by_load, *tensors_alone) else 1
    output = tgems("info", tmp_path / "g", code=code)
    assert code == 0 or len(output.splitlines()) == 1


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_anywhere_ends_in_a_traceback(saved, tmp_path, demo_backbone, data):
    folder = tmp_path / "g"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    config = read_json(saved / "config.json")
    *path, last = data.draw(st.sampled_from([place for place in places(config) if place]))
    changed = copy.deepcopy(config)
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(anything)
    (folder / "config.json").write_text(json.dumps(changed))
    try:
        EarlyExitCLIP.from_pretrained(folder, backbone=demo_backbone).save_pretrained(folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
