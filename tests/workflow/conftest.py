"""Projects to run the workflow in."""

import os

import pytest
from conftest import ROOT
from running import SMOKE, make_project, snakemake

WATCH = """
import atexit, json, os, pathlib, re, sys

@atexit.register
def write_imported_files():
    script = re.search(r"\\.snakemake/scripts/\\w+\\.(\\w+)\\.py$", (sys.argv or [""])[0])
    if script:
        modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "tgems"]
        about = {"script": script[1], "files": [str(pathlib.Path(m.__file__).resolve()) for m in modules]}
        pathlib.Path(os.environ["IMPORTED"], f"{os.getpid()}.json").write_text(json.dumps(about))
"""


@pytest.fixture
def project(tmp_path):
    """A fresh project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A project in which the smoke configuration has run on two cores; tests leave it as it is.

    Each job writes which files of tgems it had imported at its end to the folder `imported`.
    """
    folder, watch = make_project(tmp_path_factory.mktemp("smoke") / "project"), tmp_path_factory.mktemp("watch")
    (watch / "sitecustomize.py").write_text(WATCH)
    (folder / "imported").mkdir()
    watching = {"PYTHONPATH": os.pathsep.join((str(watch), str(ROOT))), "IMPORTED": str(folder / "imported")}
    snakemake(folder, "--cores", "2", *SMOKE, environment=watching)
    return folder
