"""The workflow on a real Slurm cluster, through profiles/slurm: the same tables, also when jobs are killed or fail."""

import os
import re
import subprocess
import sys
import time

import pytest
from running import SMOKE, make_project, snakemake
from workflow.slurm_cluster import cluster, slurm, why_not

pytestmark = [pytest.mark.workflow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
THREADS = ("--config", "latency={threads: 1}")
PROFILE = ("--profile", "profiles/slurm", *SMOKE, *THREADS)
QUICK = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1", "--cores", "2")
CANCELLED = "rule_extract_demo_features_wildcards_demo-vit-8_digits"
MEASURED = "rule_measure_latency_wildcards_demo-vit-8"


class Watched:
    """A run on the cluster in which one job is cancelled, and another finds a file missing at its first attempt."""

    def __init__(self, folder, environment):
        self.log = folder / "run.log"
        self.environment = environment
        self.cancelled = None
        self.texts = folder / "results/smoke/features/demo-vit-8/scenes/train/texts.safetensors"
        self.aside = folder / "texts.safetensors"
        command = [sys.executable, "-m", "snakemake", *PROFILE, *QUICK]
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        with self.log.open("w") as out:
            self.process = subprocess.Popen(command, cwd=folder, env=variables, stdout=out, stderr=subprocess.STDOUT)

    def wait(self, seconds):
        """Disturb the run until it has ended; return what it printed."""
        end = time.monotonic() + seconds
        try:
            while self.process.poll() is None and time.monotonic() < end:
                self.disturb()
                time.sleep(0.3)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
        return self.log.read_text()

    def disturb(self):
        """Cancel the job of CANCELLED once it runs; take a file of the training features away until a job misses it."""
        if self.cancelled is None:
            running = dict(
                line.split("|") for line in slurm(self.environment, "squeue", "-h", "-t", "R", "-o", "%k|%i").split()
            )
            if CANCELLED in running:
                self.cancelled = running[CANCELLED]
                slurm(self.environment, "scancel", self.cancelled)
        if self.texts.exists() and not self.aside.exists() and "Error in rule train_heads" not in self.log.read_text():
            self.texts.rename(self.aside)
        if self.aside.exists() and "Error in rule train_heads" in self.log.read_text():
            self.aside.rename(self.texts)


def asked(environment):
    """Memory in MB, and whether others may use the node, that every attempt of a job asked for, in order, by job."""
    found = {}
    for line in slurm(environment, "squeue", "-h", "-t", "all", "-S", "i", "-o", "%k|%m|%h").split():
        name, memory, shared = line.split("|")
        found.setdefault(name, []).append((int(memory.removesuffix("M")), shared))
    return found


def tables(folder):
    """Contents of all tables that hold no speeds, by name, without the commit, which may change during the tests."""
    files = sorted((folder / "results/smoke/tables").iterdir())
    commit = re.compile(rb'"commit": "[^"]*"')
    measured = ("latency", "pareto", "budgets")
    return {path.name: commit.sub(b"", path.read_bytes()) for path in files if path.stem not in measured}


def test_jobs_on_slurm_make_the_same_tables_although_one_is_cancelled_and_one_fails(smoke, tmp_path):
    folder = make_project(tmp_path / "project")
    with cluster(tmp_path / "slurm", cores=2) as environment:
        run = Watched(folder, environment)
        output = run.wait(900)
        jobs = asked(environment)
    assert run.process.returncode == 0, output
    assert run.cancelled and re.search(rf"SLURM-job '{run.cancelled}' failed, SLURM status is: 'CANCELLED'", output)
    assert "Error in rule train_heads" in output and "texts.safetensors: truncated, altered or missing" in output
    assert tables(folder) == tables(smoke) and len(tables(folder)) > 20
    assert (folder / "results/smoke/tables/latency.csv").is_file()
    (first, _), (second, _) = jobs[CANCELLED]
    assert second == 2 * first > 1_000, "a further attempt asks for more memory"
    alone = {name for name, attempts in jobs.items() if attempts[0][1] == "NO"}
    assert alone == {MEASURED}, "speed is measured with no other job on the node"
    again = snakemake(folder, "-n", *SMOKE, *THREADS).stdout
    assert "Nothing to be done" in again, "where jobs run is no reason to run them again"
