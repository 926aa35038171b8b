"""The one exception a user is meant to read, and how a job shows it."""

import difflib
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A bad input: one line that names the value, the place and the mend."""


def nearest(word: object, known: Iterable) -> str:
    """A hint for a word that is none of the known: the one that it resembles, or all of them."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line for bad input (`ValueError`, missing files); let bugs show their trace."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        logging.getLogger("tgems").debug("bad input", exc_info=True)
        sys.exit(f"error: {error}")
