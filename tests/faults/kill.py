"""Kill runs of the smoke configuration at random moments, recover as the README says, and compare all tables.

    python tests/faults/kill.py --kills 20

Every run is in a folder of its own, of links to this checkout. Ends with code 1 if a table of a recovered run differs
by a byte from that of a run that was left alone.
"""

import argparse
import atexit
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from running import SMOKE, make_project

WAYS: dict[str, Callable[[subprocess.Popen], None]] = {
    "SIGKILL to all": lambda run: os.killpg(run.pid, signal.SIGKILL),
    "SIGKILL to Snakemake": lambda run: run.kill(),
    "SIGTERM to Snakemake": lambda run: run.terminate(),
    "Ctrl-C": lambda run: os.killpg(run.pid, signal.SIGINT),
}
AGAIN_EVERY = 3
"""The recovery of every third kill is killed too."""
PATIENCE = 120.0
"""Seconds in which Snakemake must end by itself after SIGTERM or Ctrl-C, and a forced race must come about."""


class Campaign:
    """Runs in folders below one, with the tables that they should all have.

    Attributes:
        root: Folder of all runs.
        cores: Of each run.
        expected: Content of the tables by name, from a run that was left alone.
        seconds: What that run took.
    """

    def __init__(self, root: Path, cores: int):
        self.root, self.cores = root, cores
        self.groups: list[int] = []
        atexit.register(self.end)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        project = make_project(root / "reference")
        start = time.monotonic()
        self.recover(self.start(project), project)
        self.seconds = time.monotonic() - start
        self.expected = tables(project)
        if not self.expected:
            sys.exit(f"{project}: the run that was left alone has no tables")

    def start(self, project: Path, *options: str, cores: int | None = None) -> subprocess.Popen:
        """Start Snakemake as the leader of a process group; its output is appended to `log`."""
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores or self.cores), *SMOKE, *options]
        code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "os.execv(sys.argv[1], sys.argv[1:])"  # background processes may have inherited that it is ignored
        with open(project / "log", "ab") as log:
            run = subprocess.Popen(
                [sys.executable, "-c", code, *command],
                cwd=project,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.groups.append(run.pid)
        return run

    def end(self) -> None:
        """Kill what is left of the processes of all runs."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.groups.clear()

    def recover(self, run: subprocess.Popen, project: Path) -> None:
        """Wait for a run that must succeed."""
        if run.wait():
            sys.exit(f"{project}: the run failed; see {project / 'log'}")

    def unlock(self, project: Path) -> None:
        """Do the first of the README's two commands."""
        self.recover(self.start(project, "--unlock"), project)

    def kill(self, project: Path, way: str, moment: float, *options: str) -> str:
        """Start a run, and kill it after some seconds; what it was doing."""
        run = self.start(project, *options)
        with suppress(subprocess.TimeoutExpired):
            run.wait(moment)
            return "already done"
        busy = running(project / "log")
        WAYS[way](run)
        try:
            run.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            sys.exit(f"{project}: Snakemake did not end within {PATIENCE:.0f} s of {way}")
        return busy

    def differing(self, project: Path) -> list[str]:
        """Return the names of tables that are missing, are too many, or differ."""
        found = tables(project)
        return [name for name in sorted({*found, *self.expected}) if found.get(name) != self.expected.get(name)]


def tables(project: Path) -> dict[str, bytes]:
    """Return the content of all files in the folder of tables, but for measured speed."""
    found = (project / "results/smoke/tables").glob("*")
    return {p.name: p.read_bytes() for p in found if p.is_file() and p.stem != "latency"}


def running(log: Path) -> str:
    """Return what the jobs do that have started and not finished, by Snakemake's output."""
    text = log.read_text(errors="replace").rpartition("Building DAG of jobs")[2]
    finished = set(re.findall(r"Finished jobid: (\d+)", text))
    started = re.findall(r"^Job (\d+): (.*)$", text, re.MULTILINE)
    return "; ".join(what for job, what in started if job not in finished) or "no job"


def jobs_of(run: subprocess.Popen) -> list[int]:
    """Return the ids of the processes that run scripts for a Snakemake process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == run.pid and b".snakemake/scripts" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
    return found


def wait_for(what: str, found: Callable[[], list]) -> list:
    """Wait until a list is not empty, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (now := found()):
        if time.monotonic() > deadline:
            sys.exit(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.002)
    return now


def race(campaign: Campaign, project: Path) -> str:
    """Let an orphan and the job that takes its place write the same folder at the same time; say how that came about.

    The orphan is stopped while it fills a folder, its Snakemake is killed, and it is continued as soon as the next
    Snakemake's job has begun to fill the same one.
    """

    def half_written() -> list[Path]:
        return list((project / "results/smoke/features").rglob("*.partial"))

    run = campaign.start(project, cores=1)
    first = wait_for("a job that fills a folder", half_written)[0]
    (orphan,), names = jobs_of(run), [path.name for path in half_written()]
    os.kill(orphan, signal.SIGSTOP)
    run.kill()
    run.wait()
    assert first.exists(), "the orphan was stopped while it wrote"
    try:
        campaign.unlock(project)
        again = campaign.start(project, "--rerun-incomplete", cores=1)
        wait_for(
            "a job that fills the same folder",
            lambda: [p for p in half_written() if p.parent == first.parent and p != first],
        )
    finally:
        os.kill(orphan, signal.SIGCONT)
    wait_for("the orphan's end", lambda: [] if Path(f"/proc/{orphan}/cmdline").exists() else ["ended"])
    campaign.recover(again, project)
    return f"both wrote {first.relative_to(project).parent.parent}"


def main() -> None:
    """Run the campaign, and print a line for each kill."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="number of runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--cores", type=int, default=2, help="of each run")
    parser.add_argument("--keep", type=Path, help="new folder for the runs, which is kept")
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp(prefix="tgems-kill-"))
    root.mkdir(parents=True, exist_ok=True)
    draw, bad = random.Random(options.seed), 0
    campaign = Campaign(root, options.cores)
    print(f"a run that is left alone takes {campaign.seconds:.0f} s and makes {len(campaign.expected)} files of tables")
    for number in range(options.kills + 1):
        project = make_project(root / f"run-{number}")
        if number == options.kills:
            how = f"write race: {race(campaign, project)}"
        else:
            way = list(WAYS)[number % len(WAYS)]
            moment = draw.uniform(0, campaign.seconds)
            how = f"{way} after {moment:.1f} s ({campaign.kill(project, way, moment)})"
            campaign.unlock(project)
            if number % AGAIN_EVERY == AGAIN_EVERY - 1:
                moment = draw.uniform(0, campaign.seconds - moment)
                way = draw.choice(list(WAYS))
                how += f"; {way} {moment:.1f} s into the recovery "
                how += f"({campaign.kill(project, way, moment, '--rerun-incomplete')})"
                campaign.unlock(project)
            campaign.recover(campaign.start(project, "--rerun-incomplete"), project)
        campaign.end()
        differing = campaign.differing(project)
        bad += bool(differing)
        print(f"{number + 1:3} {how}: {'all tables equal' if not differing else f'DIFFERENT: {differing}'}", flush=True)
        if not differing and options.keep is None:
            shutil.rmtree(project)
    if options.keep is None and not bad:
        shutil.rmtree(root)
    print(f"{options.kills + 1 - bad} of {options.kills + 1} runs have the same tables, byte for byte")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
