"""Common environment of all jobs of the workflow: log, threads, determinism, and one line for a failure."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tgems.errors import UserError
from tgems.failures import BAD_INPUT, INTERRUPTED, bug_line
from tgems.process import collect_garbage_rarely
from tgems.takeover import begin_job


@contextmanager
def job(log: str, threads: int) -> Iterator[None]:
    """Run a job's body.

    Log lines of tgems go to stderr and to the log file, warnings of libraries only to the file. Progress bars are drawn
    only on a terminal. If the body fails, the process ends with one line on stderr, which is also the last line of the
    log: the message of a `UserError`, or else a line about a bug, whose traceback is in the log. The exit code is 1, or
    130 for an interrupt. A job that has been started again meanwhile writes no more outputs (tgems/takeover.py).

    Args:
        log: Log file.
        threads: Number of threads of torch and BLAS.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    collect_garbage_rarely()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    file = logging.StreamHandler(begin_job(Path(log)))
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
        traceback.print_exception(error, file=file.stream)
        logger.error("error: %s", bug_line(error, log))
        sys.exit(1)


def use_threads(threads: int) -> None:
    """Limit torch to `threads` and make its algorithms deterministic.

    `torch.use_deterministic_algorithms` does the same, but also imports torch's compiler, which takes a second or two.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
