"""Run the real workflow in copies of the project, so that the checkout's results stay as they are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

SMOKE = ("--configfile", "configs/smoke.yaml")
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
PARTS = ("Snakefile", "workflow", "tgems", "configs", "assets", "environment.yml", "profiles")


def snakemake(
    project: Path, *arguments: str, check: bool = True, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run Snakemake in a project; stderr and stdout together in `stdout`."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
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


def watched(project: Path) -> dict[str, str]:
    """Environment in which each job writes which files of tgems it had imported at its end to the folder `imported`."""
    for name in ("imported", "watch"):
        (project / name).mkdir()
    (project / "watch/sitecustomize.py").write_text(WATCH)
    python_path = os.pathsep.join((str(project / "watch"), str(ROOT)))
    return {"PYTHONPATH": python_path, "IMPORTED": str(project / "imported")}


def finish_smoke(folder: Path) -> None:
    """Run the smoke configuration on two cores in a new project, whose jobs are watched."""
    make_project(folder)
    snakemake(folder, "--cores", "2", *SMOKE, environment=watched(folder))


def planned(output: str) -> dict[str, int]:
    """Jobs by rule, from a dry run's output."""
    table = output.split("Job stats:")[-1].split("Reasons:")[0]
    return {rule: int(n) for rule, n in re.findall(r"^([a-z_]+) +(\d+)$", table, re.MULTILINE)}


def copy_project(smoke: Path, tmp_path: Path) -> Path:
    """A copy of a finished project, without the results of other configurations, to be changed."""
    folder = make_project(tmp_path / "copy")
    for part in ("results", ".snakemake"):
        shutil.copytree(smoke / part, folder / part, symlinks=True)
    return folder


def failed(project: Path, *arguments: str) -> str:
    """Output of a run that must fail; no trace, since the mistake is the input's."""
    run = snakemake(project, "--cores", "1", *arguments, check=False)
    assert run.returncode != 0 and "Traceback" not in run.stdout, run.stdout
    return run.stdout
