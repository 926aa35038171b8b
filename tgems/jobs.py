"""Common environment of all jobs of the workflow: log, threads, determinism, and one line for a failure."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tgems.errors import UserError, first_line, printable
from tgems.failures import BAD_INPUT, INTERRUPTED, bug_line
from tgems.process import collect_garbage_rarely
from tgems.system_errors import system_line
from tgems.takeover import begin_job


def _begin(log: str) -> TextIO:
    try:
        return begin_job(Path(log))
    except OSError as error:
        print(f"tgems: error: {printable(system_line(error) or first_line(error))}", file=sys.stderr)
        sys.exit(BAD_INPUT)


@contextmanager
def job(log: str, threads: int) -> Iterator[None]:
    """Run a job's body.

    Log lines of tgems go to stderr and to the log file, warnings of libraries only to the file. Progress bars are drawn
    only on a terminal. If the body fails, the process ends with one line on stderr, which is also the last line of the
    log: the message of a `UserError`, the description of an error of the operating system (tgems/system_errors.py), or
    a line about a bug. The log holds the traceback of the latter two. The exit code is 1, or 130 for an interrupt. A
    job that has been started again meanwhile writes no more outputs (tgems/takeover.py).

    Args:
        log: Log file.
        threads: Number of threads of torch and BLAS.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    collect_garbage_rarely()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    file = _LogFile(_begin(log))
    handlers = [file, logging.StreamHandler()]
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", handlers=handlers, force=True)
    logger = logging.getLogger("tgems")
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")
    warned.propagate, warned.handlers = False, [file]
    try:
        if "torch" in sys.modules:
            raise RuntimeError("torch was imported before the number of threads was set; import it inside the job")
        yield
    except UserError as error:
        logger.error("error: %s", error)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        logger.error("interrupted")
        sys.exit(INTERRUPTED)
    except BaseException as error:
        logged = file.write_traceback(error)
        place = log if logged else "the lines above, since the log could not be written"
        logger.error("error: %s", printable(system_line(error) or bug_line(error, place)))
        sys.exit(1)


class _LogFile(logging.StreamHandler):
    """Writes a job's log, and does without it if the disk is full, since the lines of tgems also go to stderr."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Report an error of logging, as the base class does, unless the operating system refused to write."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def write_traceback(self, error: BaseException) -> bool:
        """Write the traceback of an exception to the log, or else, for a bug, to stderr.

        Returns:
            Whether it is in the log.
        """
        try:
            traceback.print_exception(error, file=self.stream)
            return True
        except OSError:
            if system_line(error) is None:
                traceback.print_exception(error)
            return False


def use_threads(threads: int) -> None:
    """Limit torch to `threads` and make its algorithms deterministic.

    `torch.use_deterministic_algorithms` does the same, but also imports torch's compiler, which takes a second or two.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
