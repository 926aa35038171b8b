"""The one exception a user is meant to read, and how a job shows it."""

import difflib
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def printable(text: str) -> str:
    """Escape characters that a terminal would obey: control characters, line breaks, changes of text direction.

    Names of images and models can come from strangers, and `\\x1b[2J` in one of them would clear the screen.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(ValueError):
    """A bad input: one line that names the value, the place and the mend."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def nearest(word: object, known: Iterable) -> str:
    """A hint for a word that is none of the known: the one that it resembles, or all of them."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters, or its class if it has no message."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line for bad input (`ValueError`, missing files); let bugs show their trace."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        logging.getLogger("tgems").debug("bad input", exc_info=True)
        sys.exit(f"error: {printable(str(error))}")
