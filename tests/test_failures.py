"""How jobs and commands end: one line for the user, and the traceback of a bug in a file that the line names."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

JOB = """
from tgems.jobs import job

with job("logs/train/demo.log", 1):
    import torch

    from tgems.errors import UserError

    {body}
"""
BROADCAST = "torch.zeros(2) + torch.zeros(3)"
COMMAND = """
import sys

import tgems.runtime.tgem_info
from tgems.cli import main

def describe(folder):
    {body}

tgems.runtime.tgem_info.describe = describe
sys.argv = ["tgems", "info", "some folder"]
main()
"""


def python(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Run code in a folder, which is also its temporary folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_bug_in_a_job_leaves_its_traceback_in_the_log_and_one_line_that_names_it(tmp_path):
    run = python(tmp_path, JOB.format(body=BROADCAST))
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert re.search(
        r"this is a bug in tgems: RuntimeError: The size of tensor a .*; the traceback is in logs/train/demo\.log$",
        run.stderr.strip(),
    )
    log = (tmp_path / "logs/train/demo.log").read_text()
    assert "Traceback (most recent call last)" in log and "RuntimeError: The size of tensor a" in log
    assert log.splitlines()[-1] == run.stderr.strip(), "the line is the log's last"


@pytest.mark.parametrize("error", ["ValueError('wrong shape')", "OSError('odd')", "KeyError('a')"])
def test_uncaught_errors_of_libraries_are_bugs(tmp_path, error):
    run = python(tmp_path, JOB.format(body=f"raise {error}"))
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert f"this is a bug in tgems: {error.partition('(')[0]}: " in run.stderr
    assert "Traceback" in (tmp_path / "logs/train/demo.log").read_text()


STATES = [
    ("OSError(28, 'No space left on device')", "the output: No space left on device; free space there"),
    ("OSError(30, 'Read-only file system', 'a')", "a: Read-only file system; free space there, or choose a place"),
    ("OSError(122, 'Disk quota exceeded')", "the output: Disk quota exceeded; free space there"),
    ("OSError(5, 'Input/output error', 'a')", "a: Input/output error; check the disk, or the connection to it"),
    ("PermissionError(13, 'Permission denied', 'a')", "a: Permission denied; check that you may read and write there"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems number some errors differently")
@pytest.mark.parametrize(("error", "line"), STATES)
def test_the_state_of_the_machine_is_no_bug(tmp_path, error, line):
    for code in (JOB.format(body=f"raise {error}"), COMMAND.format(body=f"raise {error}")):
        run = python(tmp_path, code)
        assert run.returncode == 1 and run.stderr.count("\n") == 1 and f"error: {line}" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert f"error: {line}" in (tmp_path / "logs/train/demo.log").read_text()


def test_a_permission_that_is_missing_for_no_file_is_a_bug(tmp_path):
    run = python(tmp_path, JOB.format(body="raise PermissionError(1, 'Operation not permitted')"))
    assert run.returncode == 1 and "this is a bug in tgems: PermissionError" in run.stderr


def test_a_job_whose_log_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "logs").touch()
    run = python(tmp_path, JOB.format(body="raise ValueError"))
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert re.search(r"tgems: error: .*/logs/train: Not a directory; move away what is there", run.stderr)


def test_a_user_s_error_in_a_job_is_one_line_and_no_traceback(tmp_path):
    run = python(tmp_path, JOB.format(body="raise UserError('a.json: missing; make it')"))
    assert run.returncode == 1 and run.stderr == "tgems: error: a.json: missing; make it\n"
    assert (tmp_path / "logs/train/demo.log").read_text() == run.stderr


def test_a_bug_in_a_command_leaves_its_traceback_in_a_file_that_the_line_names(tmp_path):
    run = python(tmp_path, COMMAND.format(body=f"import torch; {BROADCAST}"))
    assert run.returncode == 70 and not run.stdout and run.stderr.count("\n") == 1
    found = re.fullmatch(r"error: this is a bug in tgems: RuntimeError: .*; the traceback is in (.*)\n", run.stderr)
    (log,) = tmp_path.glob("tgems-*.log")
    assert found[1] == str(log)
    text = log.read_text()
    for part in ("command: tgems info 'some folder'", "torch 2.", "Python 3.", "Traceback", "RuntimeError: The size"):
        assert part in text


def test_a_user_s_error_in_a_command_leaves_no_file(tmp_path):
    body = "from tgems.errors import UserError; raise UserError('a.json: missing\\nmake it')"
    run = python(tmp_path, COMMAND.format(body=body.replace("\\n", "\\\\n")))
    assert run.returncode == 1 and run.stderr == "error: a.json: missing\\nmake it\n"
    assert not list(tmp_path.iterdir())


def test_a_bug_is_shown_where_no_file_can_be_written(tmp_path):
    code = f"import tempfile; tempfile.tempdir = {str(tmp_path / 'none')!r}\n{COMMAND.format(body='return 1 / 0')}"
    run = python(tmp_path, code)
    assert run.returncode == 70 and "Traceback" in run.stderr and "since no file could be written" in run.stderr


def test_an_interrupt_is_one_line(tmp_path):
    code = COMMAND.format(body="import time; print('ready', flush=True); time.sleep(60)")
    # Shells start background processes with interrupts ignored, which their children inherit.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130 and errors == "interrupted\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "body", ["print('word ' * 100_000); return [], [], [], [], []", "return [('a', 'b')], [], [], [], []"]
)
def test_a_reader_that_closes_the_pipe_is_not_an_error(tmp_path, body):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(body=body)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdout.close()
    assert child.stderr.read() == b"" and child.wait(timeout=30) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tgems.data.pack", "images", "none.csv", "out", "--split", "test", "--label-column", "class"], "none.csv: "),
        (["tgems.demo.hub_rehearsal", "README.md"], "README.md/remote/flickr8k: cannot be written"),
        (["tgems.demo.installing"], "results/backbones: no backbone; run `make pretrain` first"),
        (["tgems.reporting.claims", "tables"], "tables/contributions.csv: missing; give the folder of tables"),
    ],
)
def test_modules_run_with_python_m_end_as_commands_do(tmp_path, words, message):
    (tmp_path / "README.md").touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1 and run.stderr.startswith("error: ") and message in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a device")
def test_a_full_disk_behind_stdout_is_not_a_bug(tmp_path):
    code = COMMAND.format(body="print('a line'); return [], [], [], [], [], []")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert run.returncode == 1 and run.stderr.startswith("error: the output: No space left on device; free space there")
    assert run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
