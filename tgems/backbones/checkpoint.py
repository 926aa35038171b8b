"""Read a checkpoint file into a model. The only files that are executed are the archives that OpenAI published."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tgems.errors import UserError, first_line
from tgems.provenance import digest_file
from tgems.untrusted import read_safetensors

OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
DOWNLOAD_AGAIN = "download or copy it again"


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint onto the CPU.

    Args:
        path: A `.safetensors` file, a file that `torch.save` wrote and that holds only tensors, or a TorchScript
            archive that OpenAI published.

    Returns:
        Tensors by name.

    Raises:
        UserError: The file is damaged, holds more than tensors, or is a TorchScript program that OpenAI did not
            publish.
    """
    path = str(path)
    if path.endswith(".safetensors"):
        state = read_safetensors(Path(path), DOWNLOAD_AGAIN)
    elif _is_program(path):
        if digest_file(Path(path)) not in published_digests():
            raise UserError(
                f"backbone weights {path!r} are a TorchScript program that is not one of OpenAI's releases; "
                "convert its tensors to .safetensors"
            )
        state = torch.jit.load(path, map_location="cpu").state_dict()
    else:
        state = _saved_tensors(path)
    if not state:
        raise UserError(f"backbone weights {path!r} contain no tensors; {DOWNLOAD_AGAIN}")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def is_openais(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state is one of OpenAI's releases, which have keys that no other checkpoint has."""
    return state.keys() >= set(OPENAI_KEYS)


def load_checkpoint(model: Any, path: str | Path, name: str, quick_gelu: bool) -> None:
    """Load the weights of a file into a model.

    Args:
        model: An open_clip model, changed in place.
        path: A file that `read_state` reads.
        name: Name of the architecture, for messages.
        quick_gelu: Whether the model has QuickGELU, with which OpenAI's releases were trained.

    Raises:
        UserError: The file cannot be read (see `read_state`), the weights do not fit the model, or they were trained
            with QuickGELU and the model has GELU.
    """
    import open_clip

    path, state = str(path), read_state(path)
    try:
        if not is_openais(state):
            open_clip.load_checkpoint(model, path)
            return
        if not quick_gelu:
            raise UserError(
                f"backbone weights {path!r} are OpenAI's, trained with QuickGELU, but {name!r} has GELU; "
                f"write 'model: {name}-quickgelu'"
            )
        model.load_state_dict({k: v for k, v in state.items() if k not in OPENAI_KEYS})
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, AssertionError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"backbone weights {path!r} do not fit {name!r}: {first}") from error


def _saved_tensors(path: str) -> dict[str, Tensor]:
    """Read a state that `torch.save` wrote. torch's restricted unpickler reads only tensors and plain values."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # an arbitrary file can make torch's reader raise anything
        raise UserError(
            f"backbone weights {path!r} do not hold only tensors ({first_line(error)}); convert them to .safetensors"
        ) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named:
        raise UserError(f"backbone weights {path!r} are not tensors by name; convert them to .safetensors")
    return state


def published_digests() -> set[str]:
    """Return the SHA-256 of the archives that OpenAI published, from the addresses that open_clip knows."""
    from open_clip import get_pretrained_url, list_openai_models

    return {get_pretrained_url(name, "openai").split("/")[-2] for name in list_openai_models()}


def _is_program(path: str) -> bool:
    """Return whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
