"""A damaged folder of a backbone gives one line that names the file, and never a traceback."""

import json

import pytest
import torch
from faults.breaking import break_, cases, check_line
from hostile import CONFIG, FOLDER, WEIGHTS, anything, backbone, places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tgems.architectures.catalog import check_supported
from tgems.backbones.load import build_image_tower, load_backbone
from tgems.backbones.references import model_config
from tgems.errors import UserError
from tgems.provenance import read_json

TENSORS = {
    "no tensor": ({}, "contain no tensors"),
    "all scalars": ({name: torch.zeros(()) for name in load_file(FOLDER / WEIGHTS)}, "do not fit"),
}
TORCH_FILES = {
    "a list": ([torch.zeros(1)], "not tensors by name"),
    "a number": ({"state_dict": 7}, "not tensors by name"),
    "a tensor": (torch.zeros(3), "not tensors by name"),
    "numbered": ({1: torch.zeros(3)}, "not tensors by name"),
    "nothing": ({}, "contain no tensors"),
}


@pytest.mark.parametrize("case", [*cases("backbone_config"), *cases("backbone_weights")])
def test_a_damaged_folder_is_one_line(demo_folder, case):
    break_(demo_folder, case["do"])
    with pytest.raises(UserError) as error:
        load_backbone(backbone(demo_folder))
    check_line(str(error.value), case)
    assert str(demo_folder) in str(error.value)


@pytest.mark.parametrize("case", [*TENSORS, *TORCH_FILES])
def test_weights_of_another_kind_are_one_line(demo_folder, case):
    if case in TENSORS:
        content, says = TENSORS[case]
        save_file(content, demo_folder / WEIGHTS)
    else:
        content, says = TORCH_FILES[case]
        (demo_folder / WEIGHTS).unlink()
        torch.save(content, demo_folder / "model.pth")
    with pytest.raises(UserError) as error:
        load_backbone(backbone(demo_folder))
    check_line(str(error.value), {"says": says})


@pytest.mark.parametrize("case", cases("backbone_config"))
def test_a_dry_run_and_the_count_of_macs_refuse_it_too(demo_folder, case):
    """A dry run reads only the configuration, so that sizes which do not fit together are found when building."""
    break_(demo_folder, case["do"])
    for read, cannot_see in (
        (lambda entry: check_supported(model_config(entry), "x"), ("cannot build", "do not fit")),
        (lambda entry: build_image_tower(entry, "meta"), ("do not fit",)),
    ):
        if any(words in case["says"] for words in cannot_see):
            continue
        with pytest.raises(UserError) as error:
            read(backbone(demo_folder))
        check_line(str(error.value), case)


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
