"""A job that goes on although its run was killed, beside the job of the next run that takes its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

JOB = """
import sys
from pathlib import Path

from tgems.jobs import job
from tgems.outputs import whole_file, whole_folder, write_text

def pause(where):
    print(where, flush=True)
    sys.stdin.readline()

name = sys.argv[1]
with job("logs/train.log", 1):
    pause("began")
    with whole_folder(Path("folder")) as folder:
        write_text(folder / "a", name)
        pause("fills the folder")
        write_text(folder / "b", name)
    with whole_file(Path("file")) as file:
        file.write_text(name)
        pause("fills the file")
"""


class Process:
    """A job in a process of its own, which waits at each step."""

    def __init__(self, folder: Path, name: str):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.child = subprocess.Popen(
            [sys.executable, "-c", JOB, name], cwd=folder, env=environment, text=True, **pipes
        )

    def reaches(self, where: str) -> None:
        assert self.child.stdout.readline().strip() == where

    def go_on(self) -> None:
        self.child.stdin.write("\n")
        self.child.stdin.flush()

    def end(self) -> tuple[int, str]:
        _, errors = self.child.communicate("\n" * 3, timeout=60)
        return self.child.returncode, errors


@pytest.mark.parametrize("older_at", ["began", "fills the folder", "fills the file"])
@pytest.mark.parametrize("newer_at", ["began", "fills the folder", "fills the file", "end"])
def test_only_the_newer_of_two_processes_of_a_job_replaces_outputs(tmp_path, older_at, newer_at):
    places = ["began", "fills the folder", "fills the file", "end"]
    processes = {}
    for name, at in (("older", older_at), ("newer", newer_at)):
        processes[name] = Process(tmp_path, name)
        for place in places[: places.index(at) + 1]:
            if place == "end":
                assert processes[name].end() == (0, "")
            else:
                processes[name].reaches(place)
                if place != at:
                    processes[name].go_on()
    code, errors = processes["older"].end()
    assert code == 1 and errors.count("\n") == 1
    output = "file" if older_at == "fills the file" else "folder"
    assert errors.startswith(f"tgems: error: {output}") and "another process has" in errors
    if newer_at != "end":
        assert processes["newer"].end() == (0, "")
    found = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a": "newer", "b": "newer", "file": "newer", "train.log": ""}


def test_a_deleted_log_does_not_stop_a_job(tmp_path):
    process = Process(tmp_path, "only")
    process.reaches("began")
    (tmp_path / "logs/train.log").unlink()
    assert process.end() == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file", "logs"}
