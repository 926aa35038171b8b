"""Devices and reduced precision, as a configuration names them."""

from contextlib import AbstractContextManager, nullcontext

import torch

from tgems.errors import UserError


def require_device(key: str, device: str) -> None:
    """Refuse a device that is not there.

    Args:
        key: Of the configuration, for the message.
        device: `cpu` or `cuda`.

    Raises:
        UserError: There is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"config: {key} is 'cuda', but torch sees no CUDA device; set it to 'cpu'")


def autocast(device: str, dtype: str) -> AbstractContextManager:
    """Return the context of an encoder's passes: autocast to `bfloat16` or `float16`, none for `float32`."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))
