"""Commands with input that they cannot use end with one line that names it, and leave no files behind."""

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from faults.breaking import break_, cases, check_line
from typer.testing import CliRunner

from tgems.cli import app


@pytest.fixture(scope="module")
def place(saved, results, make, tmp_path_factory):
    """A folder of files that are not what their names say."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(saved, root / "tgem")
    make("margin").save_pretrained(root / "margin")
    shutil.copytree(results, root / "results")
    shutil.copy(ROOT / "docs/tradeoff.png", root / "photo.png")
    break_(root, yaml.safe_load((Path(__file__).parent / "place.yaml").read_text()))
    return root


@pytest.mark.parametrize("case", cases("command_line"))
def test_bad_input_is_one_line(place, monkeypatch, case):
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = sorted(place.rglob("*"))
    run = CliRunner().invoke(app, case["run"].replace("LONG", "x" * 300).split(" "))
    assert run.exit_code == 1, (run.output, run.exception)
    line = run.output.strip()  # the cleared progress bar leaves an empty line
    assert line.startswith("error: ")
    check_line(line, case)
    assert sorted(place.rglob("*")) == before, "nothing is left behind"
