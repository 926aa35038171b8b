"""What every job of the workflow does around its one call: log, threads, determinism, one-line errors."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tgems.errors import one_line_errors
from tgems.process import collect_garbage_rarely


@contextmanager
def job(log: str, threads: int) -> Iterator[None]:
    """Run a job's body.

    The package's log lines go to stderr and to the log file, libraries' warnings to the file alone. Progress bars are
    drawn only on a terminal.

    Args:
        log: Log file; a failure's line is its last.
        threads: Threads of torch and of BLAS.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    collect_garbage_rarely()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.FileHandler(log, mode="w"), logging.StreamHandler()]
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", handlers=handlers, force=True)
    logging.getLogger("tgems").setLevel(logging.INFO)
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")
    warned.propagate, warned.handlers = False, handlers[:1]
    try:
        with one_line_errors():
            if "torch" in sys.modules:
                raise RuntimeError("import torch inside the job, after its threads are set")
            yield
    except BaseException as error:
        logging.getLogger("tgems").error("%s", error, exc_info=not isinstance(error, SystemExit))
        sys.exit(1)


def use_threads(threads: int) -> None:
    """Limit torch to `threads` and make its algorithms deterministic.

    `torch.use_deterministic_algorithms` does the same, but also imports torch's compiler, which takes a second or two.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
