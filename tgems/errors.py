"""`UserError`, the exception for mistakes of the user, and helpers that raise it where files are read.

Errors of the operating system that nothing has turned into one are described by tgems/system_errors.py. Any other
exception is a bug in tgems. tgems/failures.py defines how a command ends on each of them, and tgems/jobs.py a job.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tgems.system_errors import EXHAUSTED, WAYS_OUT


def printable(text: str) -> str:
    """Escape characters that a terminal would interpret: control characters, line breaks, changes of text direction.

    Names of images and models can be untrusted, and `\\x1b[2J` in one of them would clear the screen.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """Raised for input that cannot be used; the message is one line that says what is wrong and how to fix it.

    It is not a `ValueError`, so that code that handles errors of a library does not handle this one by accident.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


def nearest(word: object, known: Iterable) -> str:
    """Return a hint for an unknown word: the known word that it resembles, or else all known words."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters, or its class if it has no message."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def reason(error: BaseException) -> str:
    """Return the message of an exception, without the path if it comes from the operating system."""
    return getattr(error, "strerror", None) or first_line(error)


@contextmanager
def reading(path: Path | str, way_out: str, *library: type[Exception]) -> Iterator[None]:
    """Turn errors of reading a file into a `UserError`. The body should do nothing but read.

    Args:
        path: The file or folder, for the message.
        way_out: What the user can do about the error, as the end of the message, unless the system lacks something.
        library: Exceptions that a library raises on damaged content, handled like the operating system's.

    Raises:
        UserError: The body raised one of these exceptions.
    """
    try:
        yield
    except (OSError, *library) as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            way_out = WAYS_OUT[error.errno]
        raise UserError(f"{path}: cannot be read ({reason(error)}); {way_out}") from error
