"""Print what the jobs of a configuration ask a cluster for, by rule and in all, before any retry. Nothing is run.

python tests/benchmarks/cluster_requests.py [--configfile FILE] [any other option of `snakemake -n`]
"""

import io
import logging
import sys
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout

from snakemake.cli import main
from snakemake.logging import logger

COLUMNS = ("rule", "jobs", "cores", "memory of a job, GB", "longest job, h", "core hours", "GPU hours")


def planned_jobs(arguments: list[str]) -> list[tuple[str, int, dict]]:
    """Return rule, threads and resources of every job that a dry run announces.

    Raises:
        SystemExit: The dry run failed; what it printed is on stderr.
    """
    found, output = [], io.StringIO()

    def keep(record: logging.LogRecord) -> bool:
        if hasattr(record, "rule_name") and hasattr(record, "resources"):
            found.append((record.rule_name, record.threads, dict(record.resources.items())))
        return True

    logger.addFilter(keep)
    with redirect_stdout(output), redirect_stderr(output):
        try:
            main(["-n", "--cores", "1024", *arguments])
        except SystemExit as end:
            code = end.code
    if code:
        sys.stderr.write(output.getvalue())
        raise SystemExit(code)
    return [job for job in found if "runtime" in job[2]]


def table(jobs: list[tuple[str, int, dict]]) -> str:
    """Return a table of the rules, in the order of their first job, and of all jobs."""
    rules = defaultdict(list)
    for rule, threads, resources in jobs:
        hours = resources["runtime"] / 60
        asked = (threads, resources["mem_mb"] / 1000, hours, threads * hours, hours * resources.get("gpu", 0))
        rules[rule].append(asked)
        rules["all"].append(asked)
    rules["all"] = rules.pop("all")
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for rule, asked in rules.items():
        cores, memory, hours, core_hours, gpu_hours = zip(*asked, strict=True)
        cells = f"{len(asked)} | {max(cores)} | {min(memory):.1f} to {max(memory):.1f} | {max(hours):.1f}"
        lines.append(f"| {rule} | {cells} | {sum(core_hours):.0f} | {sum(gpu_hours):.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(planned_jobs(sys.argv[1:])))
