"""Find out whether the job of this process has been started again, by a run that took over from a killed one.

If Snakemake alone is killed, its jobs go on, and the next run starts them again: two processes write the same outputs,
and the older may do so with an older configuration. Every job begins with a new log file. A process whose log file has
been replaced by another of the same name is the older one, and must not replace outputs any more.

Network file systems may report the new log file with a delay, up to the age of the attributes that they cache.
"""

import os
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from tgems.errors import UserError

_own: list[tuple[Path, TextIO]] = []
"""The log of the job that this process runs, if it runs one. It stays open, so that its inode is not used again."""


def begin_job(log: Path) -> TextIO:
    """Begin a job: put a new file in the place of its log, and return it, open for writing."""
    log = Path(os.path.abspath(log))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    # Unbuffered, so that what a full disk refuses is not tried again, and refused again, when the process ends.
    raw = open(log, "wb", buffering=0)
    file = TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[arg-type]
    _own[:] = [(log, file)]
    return file


def refuse_if_replaced(path: Path) -> None:
    """Check that this process may write an output.

    Args:
        path: The output, for the message.

    Raises:
        UserError: The job that this process runs has been started again since.
    """
    for log, file in _own:
        try:
            current = os.stat(log)
        except FileNotFoundError:  # deleted, but by no other job
            continue
        if not os.path.samestat(current, os.fstat(file.fileno())):
            raise UserError(
                f"{path}: not written, because another process has started this job again; its log is {log}"
            )
