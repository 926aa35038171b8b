"""Errors of the Hugging Face hub and of the network."""


def network_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that huggingface_hub raises if a repository or the network fails.

    Few of them are classes of its own: a bad name is a `ValueError`, and a broken transfer can be a `RuntimeError`.
    """
    from huggingface_hub.errors import HfHubHTTPError

    http_error = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")  # of its HTTP client
    return OSError, ValueError, RuntimeError, http_error
