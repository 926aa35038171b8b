"""`UserError`, the one exception that is the user's fault, and helpers that raise it where files are read.

Every other exception is a bug in tgems: tgems/failures.py defines how each of them ends a command or a job.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def printable(text: str) -> str:
    """Escape characters that a terminal would obey: control characters, line breaks, changes of text direction.

    Names of images and models can come from strangers, and `\\x1b[2J` in one of them would clear the screen.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """An input that cannot be used. The message is one line that names the value, what is wrong, and the way out.

    It is no `ValueError`, so that code which handles errors of a library does not handle this one by accident.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


def nearest(word: object, known: Iterable) -> str:
    """Write a hint for an unknown word: the known one that it resembles, or all of them."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters, or its class if it has no message."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def reason(error: BaseException) -> str:
    """Return what an exception says. The operating system's own words leave out the path, which messages name first."""
    return getattr(error, "strerror", None) or first_line(error)


@contextmanager
def reading(path: Path | str, way_out: str, *library: type[Exception]) -> Iterator[None]:
    """Turn the errors of reading a file into one line. The body should do nothing else.

    Args:
        path: The file or folder, for the message.
        way_out: What the user can do about it. The message ends with it.
        library: What a library raises about damaged content, in addition to the operating system's errors.

    Raises:
        UserError: The body raised one of these errors.
    """
    try:
        yield
    except (OSError, *library) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {way_out}") from error
