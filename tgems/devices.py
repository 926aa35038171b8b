"""Devices and autocast types that the configuration names."""

from contextlib import AbstractContextManager, nullcontext

import torch

from tgems.errors import UserError


def require_device(key: str, device: str) -> None:
    """Check that a device is available.

    Args:
        key: Key of the configuration that names the device, for the message.
        device: `cpu` or `cuda`.

    Raises:
        UserError: The device is not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"config: {key} is 'cuda', but torch sees no CUDA device; set it to 'cpu'")


def autocast(device: str, dtype: str) -> AbstractContextManager:
    """Return the context of an encoder's forward passes: autocast to `bfloat16` or `float16`, or none for `float32`."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))
