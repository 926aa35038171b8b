"""Projects to run the workflow in."""

import pytest
from running import make_project, snakemake


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
