"""Using a T-GEM needs the core dependencies only; a command that needs an extra says which."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from conftest import DEMO, ROOT

from tgems.extras import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*words):
    command = [sys.executable, ROOT / "tests/without_extras.py", *words]
    return subprocess.run([*map(str, command)], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def test_a_t_gem_is_used_with_the_core_dependencies(saved, demo_data, tmp_path):
    own = shutil.copytree(saved, tmp_path / "own")
    index, backbone = tmp_path / "index.parquet", ["--backbone", DEMO["pretrained"]]
    for words in (
        ["info", saved],
        ["encode", demo_data / "scenes/test", "-m", saved, "-o", index, *backbone],
        ["search", "a red four", "-i", index, *backbone],
        ["macs", "ViT-B-32"],
        ["calibrate", own, demo_data / "scenes/test", "--rate", "0.6", "--name", "half", *backbone],
        [
            "encode",
            demo_data / "scenes/test",
            "-m",
            own,
            "-o",
            index,
            "--calibration",
            "half",
            "--hold-rate",
            "0.6",
            *backbone,
        ],
    ):
        done = run(*words)
        # A rate is held on long streams only.
        assert done.returncode in ((0, 3) if "--hold-rate" in words else (0,)) and done.stdout, done.stderr


@pytest.mark.parametrize("words", [["export", "demo-vit-8", "out"], ["compare", "a", "b"], ["clip-benchmark", "eval"]])
def test_a_command_names_the_extra_that_it_needs(words):
    done = run(*words)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith("error: this needs the Python package '")
    assert line.endswith("which is not installed; pip install 'tgems[workflow]'")


def test_extras_name_the_modules_that_their_packages_bring():
    brings = {}
    for module, packages in packages_distributions().items():
        for package in packages:
            brings.setdefault(re.sub(r"[-_.]+", "-", package).lower(), set()).add(module)
    for extra, modules in EXTRAS.items():
        names = [re.match(r"[\w.-]+", line)[0] for line in PROJECT["optional-dependencies"][extra]]
        packages = [re.sub(r"[-_.]+", "-", name).lower() for name in names]
        assert all(brings[package] & set(modules) for package in packages)
        assert all(any(module in brings[package] for package in packages) for module in modules)
