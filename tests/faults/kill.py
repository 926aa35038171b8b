"""Kill runs of the workflow at random moments, recover them as the README says, and compare the results.

A first run of configs/smoke.yaml is left undisturbed; its results are the reference. Every further run starts from
scratch, is killed after a random part of the reference's duration, and is recovered by `snakemake --unlock` and
`snakemake --rerun-incomplete`. Some recoveries are killed too. A run counts as recovered if the recovery succeeds, its
results are those of the reference, byte for byte, no temporary file is left, and a further call has nothing to do.

In a race, jobs are stopped while Snakemake is killed, and go on beside a job that replaces one of them in the recovery:
once that has run for as long as the first had, or, in a write race, once it fills the same folder as the first.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from processes import Job, Run, jobs_of, wait_for
from running import SMOKE, make_project, snakemake, watched

WAYS = {
    "kill all": "SIGKILL to Snakemake and its jobs",
    "write race": "SIGKILL to Snakemake alone; a job that fills a folder goes on beside the job that replaces it",
    "kill Snakemake": "SIGKILL to Snakemake alone; its jobs go on during the recovery",
    "terminate": "SIGTERM to Snakemake, which lets its jobs end",
    "race": "SIGKILL to Snakemake alone; any job goes on beside the job that replaces it",
    "interrupt": "SIGINT to Snakemake and its jobs, as by Ctrl-C",
    "kill Snakemake, wait": "SIGKILL to Snakemake alone; the recovery begins once its jobs have ended",
}
TWICE = 0.25
"""Share of the kills after which the recovery is killed as well."""
LATEST_RACE = 0.6
"""Last moment of a race, as a part of the reference's duration, so that there is a job to stop."""
PATIENCE = 900
MEASURED = ("latency", "pareto", "budgets", "benchmarks", "logs")
"""Results that are timings, or that tell when something happened."""


@dataclass
class Kill:
    """A row of the table: how a run was killed, and the outcome."""

    number: int
    way: str
    moment: float
    rules: list[str]
    differing: list[str]
    left: list[str]
    problem: str = ""
    late: bool = False

    @property
    def recovered(self) -> bool:
        return not (self.differing or self.left or self.problem)

    def __str__(self) -> str:
        state = "recovered" if self.recovered else (self.problem or "differs")
        rules = "the run had ended, another follows" if self.late else ", ".join(self.rules) or "none"
        return f"{self.number:>4}  {self.way:<34} {self.moment:>6.1f}  {len(self.differing):>6}  {state:<12} {rules}"


HEADER = f"{'kill':>4}  {'way':<34} {'s':>6}  {'differ':>6}  {'outcome':<12} jobs that ran"


def start(project: Path, *options: str, environment: dict[str, str] | None = None) -> Run:
    """Start the smoke configuration on two cores."""
    return Run(project, "--cores", "2", *options, *SMOKE, environment=environment)


def results(project: Path) -> dict[str, bytes]:
    """Return the content of all results that depend on the configuration alone."""
    root = project / "results/smoke"
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    named = {str(path.relative_to(root)): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if not any(word in name for word in MEASURED)}


def leftovers(project: Path) -> list[str]:
    """Return temporary files and folders among the results."""
    found = [p for p in (project / "results").rglob("*") if p.name.endswith((".partial", ".tmp")) or ".tmp" in p.name]
    return sorted(str(path.relative_to(project)) for path in found)


def kill(run: Run, way: str) -> list[Job]:
    """Kill a run in one of the ways, and return the jobs that were running."""
    jobs = jobs_of(run)
    if way == "kill all":
        run.signal_group(signal.SIGKILL)
    elif way == "interrupt":
        run.signal_group(signal.SIGINT)
    elif way == "terminate":
        run.signal(signal.SIGTERM)
    else:
        run.signal(signal.SIGKILL)
    run.wait(PATIENCE)
    if way == "kill Snakemake, wait":
        wait_for(lambda: not run.alive(), PATIENCE, "the jobs of a killed run did not end")
    return jobs


def unlock(project: Path) -> None:
    """Do what the README says to do first after a kill."""
    snakemake(project, "--unlock", *SMOKE)


def partial_folders(project: Path) -> list[Path]:
    """Return the folders of data and features that a job is filling."""
    found = (p for kind in ("data", "features") for p in (project / "results/smoke" / kind).rglob("*.partial"))
    return [path for path in found if path.is_dir()]


def race(project: Path, runs: list[Run], row: Kill, write: bool) -> None:
    """Kill Snakemake while its jobs are stopped, and let them go on beside a job that replaces one of them.

    Args:
        project: Folder of the run.
        runs: The run; its recovery is appended.
        row: Where to note the jobs, the moment, and what went wrong.
        write: Whether to stop the jobs while one fills a folder, and to wait until another fills the same.
    """
    (first,), began = runs, time.monotonic()
    jobs: list[Job] = []
    filled: list[Path] = []

    def stopped() -> bool:
        """Stop the jobs that run, unless none writes: a folder may have been completed just before."""
        jobs[:] = [job for job in jobs_of(first) if job.log] if not write or partial_folders(project) else []
        for job in jobs:
            job.signal(signal.SIGSTOP)
        filled[:] = partial_folders(project)
        if not write or filled:
            return bool(jobs)
        for job in jobs:
            job.signal(signal.SIGCONT)
        return False

    wait_for(lambda: stopped() or first.ended(), PATIENCE, "no job began to write")
    row.rules, row.moment = [job.rule for job in jobs], row.moment + time.monotonic() - began
    if first.ended():
        row.late = True
        return
    age = jobs[0].age()
    first.signal(signal.SIGKILL)
    first.wait(PATIENCE)

    seen: list[Job] = []

    def met() -> bool:
        if write:
            return any(p.parent == q.parent and p not in filled for p in partial_folders(project) for q in filled)
        now = [job for job in jobs_of(runs[1]) if job.log == jobs[0].log]
        seen.extend(now)
        return bool(seen) and not any(job.age() < age for job in now)

    try:
        unlock(project)
        runs.append(start(project, "--rerun-incomplete"))
        wait_for(lambda: met() or runs[1].ended(), PATIENCE, f"no job took the place of {jobs[0].rule}")
        row.problem = f"no job took the place of {jobs[0].rule}" if runs[1].ended() else ""
    finally:
        for job in jobs:
            job.signal(signal.SIGCONT)
    if runs[1].wait(PATIENCE):
        row.problem = f"failed, see {runs[1].output}"


def one(
    number: int, way: str, project: Path, reference: dict[str, bytes], duration: float, draw: random.Random
) -> Kill:
    """Kill a run, recover it, and compare the results."""
    moment, again, later = draw.uniform(0, duration), draw.random() < TWICE, draw.uniform(0, duration)
    moment *= {"write race": 0, "race": LATEST_RACE}.get(way, 1)
    row, runs = Kill(number, way, moment, [], [], []), [start(project)]
    try:
        runs[0].wait_at_most(moment)
        if way.endswith("race"):
            race(project, runs, row, way == "write race")
        else:
            row.late = runs[0].ended()
            row.rules = [job.rule for job in kill(runs[0], way)]
            if again:
                row.way += ", twice"
                unlock(project)
                runs.append(start(project, "--rerun-incomplete"))
                runs[1].wait_at_most(later)
                row.rules += [job.rule for job in kill(runs[1], way)]
            unlock(project)
            runs.append(start(project, "--rerun-incomplete"))
            row.problem = f"failed, see {runs[-1].output}" if runs[-1].wait(PATIENCE) else ""
        for run in runs:  # what a job of a killed run may still write counts as well
            wait_for(lambda run=run: not run.alive(), PATIENCE, "the jobs of a killed run did not end")
    finally:
        for run in runs:
            run.signal_group(signal.SIGKILL)
    found = results(project)
    row.differing = sorted(n for n in reference.keys() | found.keys() if reference.get(n) != found.get(n))
    row.left = leftovers(project)
    if not row.problem and row.left:
        row.problem = f"left {row.left[0]}"
    if not row.problem and "Nothing to be done" not in snakemake(project, "-n", *SMOKE).stdout:
        row.problem = "not complete"
    return row


def progress(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def measure(project: Path) -> tuple[dict[str, bytes], float]:
    """Run the reference in a new folder, and return its results and its duration in seconds."""
    make_project(project)
    began = time.monotonic()
    run = start(project, environment=watched(project))
    try:
        failed = run.wait(PATIENCE)
    finally:
        run.signal_group(signal.SIGKILL)
    if failed:
        sys.exit(f"the reference failed:\n{run.output.read_text()}")
    return results(project), time.monotonic() - began


def main() -> None:
    """Run the command line."""
    ways = "\n".join(f"  {name:<22} {about}" for name, about in WAYS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nways:\n{ways}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="number of runs to kill (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments, as parts of a run (default: 0)")
    parser.add_argument("--keep", type=Path, help="new folder in which the runs are kept; else they are deleted")
    parser.add_argument(
        "--reference", type=Path, help="new folder in which the first run is kept, for `pytest --smoke-run`"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # after ending what was started
    folder = options.keep or Path(tempfile.mkdtemp(prefix="tgems-kill-"))
    rows: list[Kill] = []
    try:
        reference, duration = measure(options.reference or folder / "reference")
        progress(f"reference: {len(reference)} files in {duration:.1f} s\n{HEADER}")
        for number in range(options.kills):
            way = list(WAYS)[number % len(WAYS)]
            project = make_project(folder / f"kill-{number}")
            row = one(number, way, project, reference, duration, random.Random(f"{options.seed}-{number}"))
            while row.late and row.recovered:  # the machine has less to do than it had when the reference ran
                progress(str(row))
                shutil.rmtree(project)
                duration *= 0.7
                row = one(number, way, make_project(project), reference, duration, random.Random(f"{number}"))
            rows.append(row)
            progress(str(row))
            if rows[-1].recovered and not options.keep:
                shutil.rmtree(project)
    finally:
        if not options.keep and all(row.recovered for row in rows):
            shutil.rmtree(folder)
    lost = [row for row in rows if not row.recovered]
    for row in lost:
        progress(f"\nkill {row.number}, {row.way}: {row.problem or 'results differ'}; its run is in {folder}")
        for name in row.differing + row.left:
            progress(f"  {name}")
    progress(f"\n{len(rows) - len(lost)} of {len(rows)} killed runs gave the results of the reference")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
