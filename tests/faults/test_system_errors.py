"""Refusals of the operating system other than for lack of room: one line names path, reason and way out."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from data.hub_server import use
from faults.small_disk import mounted
from running import SMOKE, failed, make_project
from runtime.test_cli import tgems

from tgems.errors import UserError
from tgems.outputs import whole_folder, write_text
from tgems.provenance import digest_file
from tgems.runtime.fetching import fetch
from tgems.system_errors import system_line

AWAY = "move away what is there, or choose another place"
NOT_ROOT = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Start a process that permissions of files apply to, although it is root's."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left", "/a/b"), "/a/b: No space left; free space there, or choose"),
        (OSError(errno.ENOSPC, "No space left"), "the output: No space left; free space there"),
        (PermissionError(errno.EACCES, "denied", b"/a"), "/a: denied; check that you may read and write there"),
        (FileNotFoundError(errno.ENOENT, "none", "/a", None, "/b"), "/a -> /b: none; check that it exists"),
        (OSError(errno.EMFILE, "Too many"), "Too many; raise the limit on open files"),
        (OSError(errno.EIO, "Input/output error", "/a"), "/a: Input/output error; check the disk"),
        (OSError(errno.ENAMETOOLONG, "too long", "x"), "x: too long; choose a shorter name"),
        (
            OSError(errno.ENOSPC, "Error writing. Detail: [errno 28] No space left"),
            "the output: No space left on",
        ),
        (OSError(2, "Failed to open local file '/a'. Detail: [errno 2] None"), "/a: No such file or directory; check"),
    ],
)
def test_an_error_of_the_system_has_a_line(error, line):
    assert system_line(error).startswith(line)


@pytest.mark.parametrize(
    "error",
    [
        OSError("of a library"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        FileNotFoundError(errno.ENOENT, "No such file", str(ROOT / "tgems/gone.csv")),
        ValueError("a", 1),
    ],
)
def test_other_errors_are_bugs(error):
    assert system_line(error) is None


def test_errors_of_libraries_that_write_by_themselves_have_a_line(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import save_file

    with pytest.raises(OSError) as from_arrow:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "none/a.parquet")
    assert system_line(from_arrow.value).startswith(f"{tmp_path}/none/a.parquet: No such file or directory; check")
    with pytest.raises(Exception, match="I/O error") as from_safetensors:
        save_file({"a": torch.zeros(1)}, tmp_path / "none/a.safetensors")
    assert re.match(rf"{tmp_path}/none/.*: No such file or directory; check", system_line(from_safetensors.value))


def test_a_name_that_leads_nowhere(saved, results, pictures, tmp_path, monkeypatch):
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    before = set(tmp_path.rglob("*"))
    for name, reason, way in (
        ("nowhere", "File exists", AWAY),
        ("circle", "File exists|Too many levels of symbolic links", f"{AWAY}|repair the symbolic link"),
        ("file", "Not a directory|File exists", AWAY),
    ):
        place = tmp_path / name / "below/i.parquet"
        line = tgems("encode", pictures / "01.png", "-m", saved, "-o", place, code=1).strip()
        assert re.fullmatch(rf"error: {place}.*: cannot be written \(({reason})\); ({way})", line), line
        with pytest.raises(UserError, match=rf"{name}/below: cannot be written \(({reason})\); ({way})"):
            with whole_folder(tmp_path / name / "below"):
                raise AssertionError("the folder cannot be made")
    for name, reason in (("nowhere", "not a saved T-GEM"), ("circle", "Too many levels|not a saved T-GEM")):
        assert re.search(rf"error: {tmp_path}/{name}: .*({reason})", tgems("info", tmp_path / name, code=1))
    assert set(tmp_path.rglob("*")) == before


def test_an_output_does_not_replace_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=rf"pipe: cannot be written \(it is not a regular file\); {AWAY}"):
        write_text(pipe, "text")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has this file, whose first byte is unreadable")
def test_a_failing_disk_is_described_in_one_line():
    with pytest.raises(UserError, match=r"/proc/self/mem: cannot be read \(Input/output error\); check the disk"):
        digest_file(Path("/proc/self/mem"))


def test_too_many_open_files_are_described_in_one_line(tmp_path):
    path = tmp_path / "a.txt"
    path.touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(UserError) as reading:
            digest_file(path)
        with pytest.raises(UserError) as writing:
            write_text(path, "text")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit = r"\(Too many open files\); raise the limit on open files \(`ulimit -n`\), or use fewer workers"
    assert re.fullmatch(rf"{path}: cannot be read {limit}", str(reading.value))
    assert re.fullmatch(rf"{path}: cannot be written {limit}", str(writing.value))
    assert list(tmp_path.iterdir()) == [path]


def without_permission(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Run code in a process that may only do what the permissions of files say."""
    words = NOT_ROOT if os.geteuid() == 0 else ()
    if words and shutil.which(words[0]) is None:
        pytest.skip("root needs setpriv, of util-linux, to give up its right to pass over permissions")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.run(
        [*words, sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


COMMAND = "import sys; sys.argv = ['tgems', *{words!r}]; from tgems.cli import main; main()"
DENIED = r"\(Permission denied\)"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("info", "closed"), rf"closed: cannot be read {DENIED}; .*"),
        (("info", "closed/g"), rf"closed/g: cannot be read {DENIED}; .*"),
        (("encode", "closed", "-m", "g"), rf"closed: cannot be read {DENIED}; check that you may read it"),
        (("encode", ".", "-m", "g"), rf".*closed: cannot be read {DENIED}; check that you may read it"),
        (("compare", "closed/a", "closed/b"), rf"closed/a/tables/provenance.json: cannot be read {DENIED}; .*"),
    ],
)
def test_a_command_without_permission(tmp_path, words, line):
    (tmp_path / "closed").mkdir(mode=0)
    run = without_permission(tmp_path, COMMAND.format(words=words))
    assert run.returncode == 1 and re.fullmatch(f"error: {line}\n", run.stderr), run.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "closed"], "no file with a traceback"


@pytest.mark.parametrize("log", ["logs/job.log", "closed/job.log"])
def test_a_job_without_permission(tmp_path, log):
    (tmp_path / "closed").mkdir(mode=0)
    code = f"from tgems.jobs import job\nwith job({log!r}, 1):\n    open('closed/a', 'w')"
    run = without_permission(tmp_path, code)
    place = re.escape(str(tmp_path / log) if "closed" in log else "closed/a")
    line = rf"tgems: error: {place}: Permission denied; check that you may read and write there\n"
    assert run.returncode == 1 and re.fullmatch(line, run.stderr), run.stderr
    if log.startswith("logs"):
        logged = (tmp_path / log).read_text()
        assert "PermissionError" in logged and logged.endswith(run.stderr)


def test_a_full_cache_of_downloads_is_not_taken_for_the_network(saved, tmp_path, monkeypatch):
    with mounted(tmp_path / "cache", "4m") as disk, use({"some/tgem": saved}, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk.folder))
        disk.fill(leave=16_384)
        with pytest.raises(UserError) as error:
            fetch("some/tgem", cache_dir=disk.folder)
        line = (
            rf"{disk.folder}.*: a download cannot be written \(No space left on device\); free space there, .*HF_HOME"
        )
        assert re.fullmatch(line, str(error.value))
        disk.free()
        found = fetch("some/tgem", cache_dir=disk.folder)
        assert {p.name for p in found.iterdir()} == {p.name for p in saved.iterdir()}


@pytest.mark.workflow
@pytest.mark.parametrize("kind", ["a file", "a link", "a circle", "a file above"])
def test_a_results_folder_that_is_none(tmp_path, kind):
    project = make_project(tmp_path / "project")
    results = project / "results"
    if kind == "a file":
        results.write_text("not a folder")
    elif kind == "a file above":
        results.mkdir()
        (results / "smoke").write_text("not a folder")
    else:
        results.symlink_to("results" if kind == "a circle" else "gone")
    output = failed(project, "--dry-run", *SMOKE)
    what = "not a folder" if "file" in kind else "a symbolic link that leads to no folder"
    place = "results/smoke" if kind == "a file above" else "results"
    assert f"config: results: {place} is {what}; move it away, or choose another results folder" in output
