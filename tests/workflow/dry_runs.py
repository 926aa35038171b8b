"""Many dry runs of one project in seconds: Snakemake is imported once, and each dry run is a fork of that process."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def dry_runs(project: Path, runs: Sequence[Sequence[str]], appended: Sequence[Path] | None = None) -> list[str]:
    """Return what `snakemake -n` prints in a project for each list of arguments.

    Args:
        project: Folder of the project.
        runs: Arguments of each dry run.
        appended: For each dry run, a file of the project that has a comment more meanwhile; None to change nothing.
    """
    jobs = {"runs": [list(run) for run in runs], "appended": appended and [str(path) for path in appended]}
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, cwd=project, env=environment, input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _dry_run(arguments: list[str]) -> tuple[int, str]:
    """Start a dry run; return the child's number and the file that it prints to."""
    from snakemake.cli import main

    handle, name = tempfile.mkstemp()
    child = os.fork()
    if child == 0:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        try:
            main(["-n", *arguments])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.close(handle)
    return child, name


def _output(child: int, name: str) -> str:
    """Wait for a dry run and return what it printed."""
    os.waitpid(child, 0)
    text = Path(name).read_text()
    os.unlink(name)
    return text


def _main() -> None:
    """Read jobs from stdin in the project's folder, and write the outputs to stdout, both as JSON."""
    sys.path.insert(0, os.getcwd())
    import pandas  # noqa: F401  (Snakemake imports it for every DAG)

    from tgems import workflow_config  # noqa: F401
    from tgems.import_closure import import_closure

    for script in Path("workflow/scripts").absolute().glob("*.py"):
        import_closure(script)  # which remembers what each module imports

    jobs = json.load(sys.stdin)
    if jobs["appended"] is None:
        pairs = [jobs["runs"][i : i + 2] for i in range(0, len(jobs["runs"]), 2)]
        outputs = [_output(*started) for pair in pairs for started in [_dry_run(run) for run in pair]]
    else:
        outputs = []
        for run, name in zip(jobs["runs"], jobs["appended"], strict=True):
            before = Path(name).read_bytes()
            Path(name).write_bytes(before + b"\n# A comment.\n")
            outputs.append(_output(*_dry_run(run)))
            Path(name).write_bytes(before)
    json.dump(outputs, sys.stdout)


if __name__ == "__main__":
    _main()
