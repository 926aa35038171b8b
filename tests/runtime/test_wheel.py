"""What pip installs works without the checkout: commands, data files and types."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import DEMO, ROOT

import tgems


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder that a wheel of this checkout is installed in, apart from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = shutil.copytree(ROOT / "tgems", folder / "checkout/tgems").parent  # a build leaves files in its source
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", source]
    subprocess.run(wheel, check=True, capture_output=True, text=True)
    (file,) = (folder / "dist").glob("tgems-*.whl")
    assert file.name.startswith(f"tgems-{tgems.__version__}-")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", file], check=True, capture_output=True)
    return file, folder / "site"


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
    names = set(zipfile.ZipFile(installed[0]).namelist())
    tracked = subprocess.run(["git", "ls-files", "tgems"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= names and "tgems/py.typed" in names
    assert not any(name.startswith(("tests", "workflow")) for name in names)


def test_commands_run_outside_of_the_checkout(run, installed, saved, demo_data):
    assert run("-c", "import tgems; print(tgems.__file__)").strip() == str(installed[1] / "tgems/__init__.py")
    assert "4.409 GMACs" in run("-m", "tgems.cli", "macs", "ViT-B-32")
    backbone = ["--backbone", DEMO["pretrained"]]
    images = demo_data / "scenes/test"
    assert "images in i.parquet" in run("-m", "tgems.cli", "encode", images, "-m", saved, "-o", "i.parquet", *backbone)
    found = run("-m", "tgems.cli", "search", "a red four", "-i", "i.parquet", "-k", "3", *backbone)
    assert len(found.strip().splitlines()) == 4
