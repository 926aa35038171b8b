"""Many dry runs of one project in seconds: Snakemake is imported once, and each dry run is a fork of that process.

python dry_runs.py < JOBS > PLANNED, in the project's folder. JOBS is a JSON list of lists of arguments; PLANNED is a JSON
list of the outputs.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

AT_ONCE = 2


def dry_runs(project: Path, runs: Sequence[Sequence[str]]) -> list[str]:
    """Return what `snakemake -n` prints in a project for each list of arguments."""
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__],
        cwd=project,
        env=environment,
        input=json.dumps([list(run) for run in runs]),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _fork(arguments: list[str]) -> tuple[int, str]:
    """Start a dry run; return the child's number and the file that it prints to."""
    from snakemake.cli import main

    handle, name = tempfile.mkstemp()
    child = os.fork()
    if child == 0:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        try:
            main(["-n", *arguments])
        except SystemExit:
            pass
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.close(handle)
    return child, name


def _main() -> None:
    sys.path.insert(0, os.getcwd())
    import pandas  # noqa: F401  (which Snakemake imports for every DAG)

    from tgems import run_config  # noqa: F401

    runs, started, outputs = json.load(sys.stdin), [], []
    for arguments in runs:
        started.append(_fork(arguments))
        if len(started) >= AT_ONCE:
            os.waitpid(started[len(started) - AT_ONCE][0], 0)
    for child, name in started:
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            pass
        outputs.append(Path(name).read_text())
        os.unlink(name)
    json.dump(outputs, sys.stdout)


if __name__ == "__main__":
    _main()
