"""Errors of the Hugging Face hub and of the network."""


def network_errors() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub raises where a repository or the network does not give what was asked for.

    These are few classes of its own: a bad name is a `ValueError`, and a broken transfer can be a `RuntimeError`.
    """
    from huggingface_hub.errors import HfHubHTTPError

    of_client = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    return OSError, ValueError, RuntimeError, of_client
