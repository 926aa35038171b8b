"""Jobs ask for memory, time and cores, as a dry run plans them."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from running import SMOKE, snakemake

pytestmark = pytest.mark.workflow
PAPER = ("--configfile", "configs/paper.yaml")


def asked(project, *arguments):
    """Numbers of the table of requests by rule: jobs, cores, least and most memory in GB, hours of the longest job,
    core hours, GPU hours."""
    command = [sys.executable, ROOT / "tests/benchmarks/cluster_requests.py", *arguments]
    output = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    return numbers_by_rule(output.splitlines()[2:])


def numbers_by_rule(rows):
    cells = [line.strip("| ").split(" | ", 1) for line in rows]
    return {rule: [float(number) for number in re.findall(r"[\d.]+", text)] for rule, text in cells}


def test_every_job_of_the_paper_asks_for_memory_and_time_and_more_at_the_next_attempt(project):
    first, second = asked(project, *PAPER), asked(project, *PAPER, "--attempt", "2")
    jobs = sum(numbers[0] for rule, numbers in first.items() if rule != "all")
    assert jobs == first["all"][0] > 300, "all jobs but the target"
    for rule, (_, _, least, most, hours, _, _) in first.items():
        assert least >= 1 and hours > 0, rule
        assert second[rule][3] > most and second[rule][4] > hours, rule
    gpu = {rule for rule, numbers in first.items() if numbers[-1]} - {"all"}
    assert gpu == {"encode_part", "extract_features"}
    assert first["encode_part"][1] == 9, "a core that encodes and eight that decode"
    table = (ROOT / "docs/clusters.md").read_text().split("| rule | jobs ")[1].split("\n\n")[0]
    documented = numbers_by_rule(table.splitlines()[2:])
    assert {rule: row[:2] for rule, row in documented.items()} == {rule: row[:2] for rule, row in first.items()}


def test_speed_is_measured_with_the_configured_number_of_threads(project):
    assert asked(project, *SMOKE, "--config", "latency={threads: 3}")["measure_latency"][1] == 3


def test_speed_elsewhere_needs_a_number_of_threads_before_anything_runs(project):
    run = snakemake(project, "--executor", "slurm", "--jobs", "1", *SMOKE, check=False)
    assert run.returncode and "latency.threads is not set" in run.stdout and "Traceback" not in run.stdout
    assert not (project / "results/smoke/tables").exists() and "submitted" not in run.stdout
