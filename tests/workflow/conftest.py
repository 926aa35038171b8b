"""Projects to run the workflow in."""

import shutil
from pathlib import Path

import pytest
from running import finish_smoke, make_project


@pytest.fixture
def project(tmp_path):
    """A fresh project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def smoke(made_once, pytestconfig, tmp_path_factory):
    """A project in which the smoke configuration has run on two cores; tests leave it as it is.

    Each job writes which files of tgems it had imported at its end to the folder `imported`. The configuration runs
    once for all processes of pytest-xdist, or not at all with `--smoke-run`, and each process has a copy of its own,
    since Snakemake locks the folder that it works in.
    """
    finished = pytestconfig.getoption("--smoke-run") or made_once("smoke", finish_smoke)
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("smoke") / "project", symlinks=True))
