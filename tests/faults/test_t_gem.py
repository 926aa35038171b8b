"""A damaged folder of a T-GEM gives one line that names the file, and never a traceback."""

import copy
import json
import shutil

import pytest
from faults.breaking import break_, cases, check_line
from hostile import anything, places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime.test_cli import tgems

from tgems.errors import UserError
from tgems.provenance import read_json
from tgems.runtime.model import EarlyExitCLIP


@pytest.mark.parametrize("case", cases("t_gem"))
def test_a_damaged_folder_is_one_line(saved, tmp_path, demo_backbone, case):
    folder = shutil.copytree(saved, tmp_path / "g")
    break_(folder, case["do"])
    with pytest.raises(UserError) as error:
        EarlyExitCLIP.from_pretrained(folder, backbone=demo_backbone)
    check_line(str(error.value), case)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("case", cases("t_gem"))
def test_info_says_what_it_can_see(saved, tmp_path, case):
    """`tgems info` reads neither tensors nor backbone."""
    folder = shutil.copytree(saved, tmp_path / "g")
    break_(folder, case["do"])
    unseen = case.get("unseen_by_info", False)
    output = tgems("info", folder, code=0 if unseen else 1)
    assert unseen or len(output.splitlines()) == 1


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
