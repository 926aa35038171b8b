"""Errors of the Hugging Face hub and of the network, and of the disk to which a download is written."""

from pathlib import Path

from tgems.errors import UserError
from tgems.system_errors import EXHAUSTED, NO_ROOM, ROOM, files_of, from_system, way_out


def network_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that huggingface_hub raises if a repository or the network fails.

    Few of them are classes of its own: a bad name is a `ValueError`, and a broken transfer can be a `RuntimeError`.
    They include `OSError`, and so the errors of the disk to which a download is written.
    """
    from huggingface_hub.errors import HfHubHTTPError

    http_error = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")  # of its HTTP client
    return OSError, ValueError, RuntimeError, http_error


def refuse_full_cache(error: Exception) -> None:
    """Raise a `UserError` about the cache of downloads if it cannot be written; do nothing about other errors.

    Args:
        error: One of `network_errors`, which would otherwise be taken for an error of the network.

    Raises:
        UserError: The disk of the cache is full or read-only, or the system lacks something else for it.
    """
    from huggingface_hub import constants

    found = from_system(error)
    if found is None:
        return
    place = next(iter(files_of(found)), Path(constants.HF_HUB_CACHE))
    denied = isinstance(found, PermissionError) and place.is_relative_to(constants.HF_HOME)
    if denied or found.errno in (*NO_ROOM, *EXHAUSTED):
        what_to_do = way_out(found, f"{ROOM} with the environment variable HF_HOME")
        raise UserError(f"{place}: a download cannot be written ({found.strerror}); {what_to_do}") from error


def refusal(error: BaseException) -> str | None:
    """Return why the hub refused a request, and the way out, or None if it is not the hub that refused.

    Args:
        error: One of `network_errors`, or an exception that huggingface_hub raised because of one.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner must grant access; ask there, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one; check the name, or set HF_TOKEN"
    response = error.response if isinstance(error, errors.HfHubHTTPError) else None
    status = response.status_code if response is not None else None
    if response is not None and status == 429:
        wait = response.headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "later"
        return f"the hub says that there were too many requests; run again {when}, or set HF_TOKEN for a higher limit"
    if status in (401, 403):
        return f"the hub refuses the request (HTTP {status}); set HF_TOKEN to a token that may read it"
    cause = error.__cause__
    return refusal(cause) if cause is not None else None
