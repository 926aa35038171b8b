"""Runs of the real workflow in copies of the project, so that the checkout's results stay as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PARTS = ("Snakefile", "workflow", "tgems", "configs", "assets", "environment.yml", "profiles")


def snakemake(project: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run Snakemake in a project; stderr and stdout together in `stdout`."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert not check or run.returncode == 0, run.stdout
    return run


def make_project(folder: Path) -> Path:
    """A project of links to this one, without results."""
    folder.mkdir(parents=True)
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    return folder


@pytest.fixture
def project(tmp_path):
    """A fresh project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A project in which the smoke configuration has run on two cores; tests leave it as it is."""
    folder = make_project(tmp_path_factory.mktemp("smoke") / "project")
    snakemake(folder, "--cores", "2", "--configfile", "configs/smoke.yaml")
    return folder
