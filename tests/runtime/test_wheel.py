"""An installed wheel works without the checkout: commands, data files and types."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import DEMO, ROOT

import tgems


def tracked(*folders):
    """Names of the files below some folders that the repository holds."""
    git = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return git.stdout.split()


@pytest.fixture
def run(installed, tmp_path):
    """Run a command of the installed package in an empty folder."""

    def call(*words):
        environment = os.environ | {"PYTHONPATH": str(installed[1]), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_wheel_holds_data_files_and_types(installed):
    assert installed[0].name.startswith(f"tgems-{tgems.__version__}-")
    names = set(zipfile.ZipFile(installed[0]).namelist())
    assert set(tracked("tgems")) <= names and "tgems/py.typed" in names
    beside = tracked("Snakefile", "workflow", "configs", "profiles", "assets")
    assert {f"tgems/installed/{name}" for name in beside} <= names
    assert {name.partition("/")[0] for name in names} == {"tgems", f"tgems-{tgems.__version__}.dist-info"}


def test_commands_run_outside_of_the_checkout(run, installed, saved, demo_data):
    assert run("-c", "import tgems; print(tgems.__file__)").strip() == str(installed[1] / "tgems/__init__.py")
    assert "4.409 GMACs" in run("-m", "tgems.cli", "macs", "ViT-B-32")
    backbone = ["--backbone", DEMO["pretrained"]]
    images = demo_data / "scenes/test"
    assert "images in i.parquet" in run("-m", "tgems.cli", "encode", images, "-m", saved, "-o", "i.parquet", *backbone)
    found = run("-m", "tgems.cli", "search", "a red four", "-i", "i.parquet", "-k", "3", *backbone)
    assert len(found.strip().splitlines()) == 4
