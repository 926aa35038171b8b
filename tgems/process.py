"""Process-wide settings that shorten start and exit, for entry points only."""

import atexit
import gc


def collect_garbage_rarely() -> None:
    """Collect garbage less often while the process runs, and not at all at its exit.

    Importing torch and open_clip creates about a million objects that live as long as the process. With Python's
    default thresholds the collector traverses them again and again, and three more times at exit, which takes a quarter
    of the time of a process that does little else. Tensors are still freed by reference counting.
    """
    gc.set_threshold(10_000, 20, 50)
    atexit.register(gc.freeze)
