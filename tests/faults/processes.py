"""Processes of a run of Snakemake: start, find its jobs, and send signals, by number only. Linux."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SCRIPT = re.compile(rb"\.snakemake/scripts/\w+\.(\w+)\.py\0")
STEP = 0.02
FIELD_STATE, FIELD_SESSION, FIELD_STARTED = 0, 3, 19
"""Places in /proc/PID/stat after the name of the program; see proc(5)."""


class Run:
    """A run of Snakemake in a session of its own, so that a signal can reach it with or without its jobs."""

    def __init__(self, project: Path, *arguments: str, environment: dict[str, str] | None = None):
        number = len(list(project.glob("run-*.txt")))
        self.output = project / f"run-{number}.txt"
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *arguments],
                cwd=project,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )

    def signal(self, number: int) -> None:
        """Send a signal to Snakemake alone."""
        self.process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to all processes that are left of the run."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def ended(self) -> bool:
        """Return whether Snakemake has ended."""
        return self.process.poll() is not None

    def alive(self) -> bool:
        """Return whether any process of the run is left."""
        return not self.ended() or any(True for _ in processes_of(self))

    def wait(self, seconds: float) -> int:
        """Wait until Snakemake ends, and return its exit status."""
        return self.process.wait(seconds)

    def wait_at_most(self, seconds: float) -> None:
        """Wait until Snakemake ends, or for the given time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)


def _heed_interrupts() -> None:
    """Undo that a shell lets programs in the background ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Job:
    """The process of a job: its number, the rule, and the log file that it has open, once it has."""

    pid: int
    rule: str
    log: str | None
    started: float

    def age(self) -> float:
        """Return for how many seconds the process exists."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started

    def signal(self, number: int) -> None:
        """Send a signal to the job, unless it has ended."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass


def _stat(pid: str) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended meanwhile
        return None


def processes_of(run: Run):
    """Yield number and start, in seconds since the system's, of each living process of a run."""
    ticks = os.sysconf("SC_CLK_TCK")
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        stat = _stat(pid)
        if stat and int(stat[FIELD_SESSION]) == run.process.pid and stat[FIELD_STATE] not in "ZX":
            yield int(pid), int(stat[FIELD_STARTED]) / ticks


def jobs_of(run: Run) -> list[Job]:
    """Return the jobs of a run that are running scripts."""
    jobs = []
    for pid, started in processes_of(run):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            script = SCRIPT.search(command)
            if script and not command.startswith((b"/bin/bash", b"bash", b"/bin/sh", b"sh")):
                jobs.append(Job(pid, script[1].decode(), _open_log(pid), started))
        except OSError:  # it has ended meanwhile
            continue
    return jobs


def _open_log(pid: int) -> str | None:
    """Return the log of a job, relative to its project."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        target = os.readlink(entry.path).removesuffix(" (deleted)")
        if target.endswith(".log") and "/logs/" in target:
            return target
    return None


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It does not within the given time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(STEP)
