"""Common environment of all jobs of the workflow: log, threads, determinism, and one line for a failure."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tgems.errors import UserError, reason
from tgems.failures import BAD_INPUT, INTERRUPTED, bug_line, machine_line
from tgems.process import collect_garbage_rarely
from tgems.provenance import writing
from tgems.takeover import begin_job


@contextmanager
def job(log: str, threads: int) -> Iterator[None]:
    """Run a job's body.

    Log lines of tgems go to stderr and to the log file, warnings of libraries only to the file. Progress bars are drawn
    only on a terminal. If the body fails, the process ends with one line on stderr, which is also the last line of the
    log: the message of a `UserError`, one about the state of the machine (`tgems.failures.machine_line`), or else one
    about a bug, whose traceback is in the log. The exit code is 1, or 130 for an interrupt.

    A job that has been started again meanwhile by another run writes no more outputs (tgems/takeover.py).

    Args:
        log: Log file.
        threads: Number of threads of torch and BLAS.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    collect_garbage_rarely()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    file = _begin_log(log)
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
        if line := machine_line(error):
            logger.error("error: %s", line)
            sys.exit(BAD_INPUT)
        try:
            traceback.print_exception(error, file=file.stream)
            file.stream.flush()
            place = log
        except OSError as full:
            traceback.print_exception(error)
            place = f"the lines above, since {log} cannot be written ({reason(full)})"
        logger.error("error: %s", bug_line(error, place))
        sys.exit(BAD_INPUT)
    finally:
        file.end()


class _LogFile(logging.StreamHandler):
    """Writes lines to the log file, as long as there is space. All lines that matter are on stderr, too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Leave out a line for which the disk has no space; logging would write a traceback to stderr."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def end(self) -> None:
        """Drop what is left in the buffer if the disk is full, since Python would try again and complain at exit."""
        try:
            self.stream.flush()
        except OSError:
            with suppress(OSError):
                self.stream.close()
            self.stream = open(os.devnull, "w")


def _begin_log(log: str) -> _LogFile:
    """Put a new file in the place of a job's log; a job without a log ends with one line."""
    try:
        with writing(Path(log), Path(log)):
            return _LogFile(begin_job(Path(log)))
    except UserError as error:
        print(f"tgems: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def use_threads(threads: int) -> None:
    """Limit torch to `threads` and make its algorithms deterministic.

    `torch.use_deterministic_algorithms` does the same, but also imports torch's compiler, which takes a second or two.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
