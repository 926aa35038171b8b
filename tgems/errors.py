"""The one exception a user is meant to read, and how a job shows it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A bad input: one line that names the value, the place and the mend."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line for bad input (`ValueError`, missing files); let bugs show their trace."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        logging.getLogger("tgems").debug("bad input", exc_info=True)
        sys.exit(f"error: {error}")
