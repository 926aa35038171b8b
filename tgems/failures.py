"""End a command on an error with one line for the user, and write the traceback of a bug to a file."""

import logging
import os
import platform
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from tgems.errors import UserError, first_line, printable
from tgems.extras import missing_extra
from tgems.provenance import commit, versions
from tgems.system_errors import system_line

BAD_INPUT, BUG, INTERRUPTED, CLOSED_PIPE = 1, 70, 130, 141
"""Exit codes. 70 is EX_SOFTWARE of sysexits.h; 130 and 141 are what shells report for SIGINT and SIGPIPE."""


def bug_line(error: BaseException, place: object) -> str:
    """Return the line that a user is shown for a bug.

    Args:
        error: The exception.
        place: File with its traceback.
    """
    said = f": {first_line(error)}" if str(error).strip() else ""
    return printable(f"this is a bug in tgems: {type(error).__name__}{said}; the traceback is in {place}")


@contextmanager
def one_line_errors(
    show: Callable[[str], None] | None = None, leave: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """End the process with one line on stderr if the body of a command fails.

    The exit code is 1 for a `UserError`, for a package that is not installed (tgems/extras.py) and for an error of the
    operating system (tgems/system_errors.py), 130 for an interrupt, and 70 for any other exception, which is a bug. The
    traceback of a bug is written to a new file in the temporary folder. If the reader of the output has closed it, the
    process ends silently.

    Args:
        show: Function that prints a line; None to write it to stderr.
        leave: Exceptions to raise unchanged, since the caller handles them.
    """
    try:
        yield
        sys.stdout.flush()
    except leave:
        raise
    except (Exception, KeyboardInterrupt) as error:
        _end(error, show or _to_stderr)


def _end(error: BaseException, show: Callable[[str], None]) -> NoReturn:
    if isinstance(error, UserError):
        logging.getLogger("tgems").debug("bad input", exc_info=error)
        show(f"error: {error}")
        sys.exit(BAD_INPUT)
    if isinstance(error, ModuleNotFoundError) and (line := missing_extra(error)):
        show(f"error: {line}")
        sys.exit(BAD_INPUT)
    if isinstance(error, KeyboardInterrupt):
        show("interrupted")
        sys.exit(INTERRUPTED)
    if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout, sys.stderr):
        sys.exit(CLOSED_PIPE)
    if line := system_line(error):
        logging.getLogger("tgems").debug("error of the operating system", exc_info=error)
        show(f"error: {printable(line)}")
        sys.exit(BAD_INPUT)
    try:
        show(f"error: {bug_line(error, _keep_traceback(error))}")
    except OSError as full:
        traceback.print_exception(error)
        show(f"error: {bug_line(error, f'the lines above, since no file could be written ({full})')}")
    sys.exit(BUG)


def _keep_traceback(error: BaseException) -> str:
    """Write a bug's traceback and environment to a new file that only the user can read, and return its name."""
    about = {
        "command": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "system": f"Python {platform.python_version()}, {platform.platform()}",
        "commit": commit(),
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    text = "".join(f"{key}: {printable(value)}\n" for key, value in about.items())
    text += "\n" + "".join(traceback.format_exception(error))
    descriptor, name = tempfile.mkstemp(prefix="tgems-", suffix=".log")
    try:
        with open(descriptor, "w", errors="replace") as file:
            file.write(text)
    except OSError:
        os.unlink(name)
        raise
    return name


def _is_closed(*streams: TextIO) -> bool:
    """Return whether the reader of one of the streams has closed it; further output to that stream is dropped."""
    closed = []
    for stream in streams:
        state = select.poll()
        state.register(stream.fileno(), select.POLLOUT)
        closed += [stream for _, event in state.poll(0) if event & select.POLLERR]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(closed)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
