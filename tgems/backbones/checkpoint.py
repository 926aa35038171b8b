"""Read a checkpoint file into a model. Nothing in the file is executed, but for OpenAI's own published archives."""

import zipfile
from pathlib import Path

import torch
from torch import nn

from tgems.errors import UserError
from tgems.provenance import digest_file

OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")


def load_checkpoint(model: nn.Module, name: str, path: str) -> None:
    """Load weights of a file; those that OpenAI released need an architecture with QuickGELU.

    Args:
        model: open_clip model of architecture `name`, changed in place.
        name: Architecture.
        path: `.safetensors`, or what `torch.save` wrote.

    Raises:
        UserError: The file holds more than tensors, does not fit, or was trained with QuickGELU and `name` has none.
    """
    import open_clip

    released = openai_state(path)
    try:
        if released is None:
            open_clip.load_checkpoint(model, path)
            return
        if not open_clip.get_model_config(name).get("quick_gelu"):
            raise UserError(
                f"backbone weights {path!r} are OpenAI's, trained with QuickGELU, but {name!r} has GELU; "
                f"write 'model: {name}-quickgelu'"
            )
        model.load_state_dict(released)
    except (RuntimeError, LookupError, AttributeError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"backbone weights {path!r} do not fit {name!r}: {first}") from error


def openai_state(path: str) -> dict | None:
    """State of one of OpenAI's releases, by what they alone hold; None for any other file.

    Raises:
        UserError: The file holds more than tensors, or is a program (TorchScript) that is none of the published ones.
    """
    if path.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            state = {k: file.get_tensor(k) for k in keys} if keys.issuperset(OPENAI_KEYS) else {}
    elif _is_program(path):
        if digest_file(Path(path)) not in published_digests():
            raise UserError(
                f"backbone weights {path!r} are a TorchScript program that is none of OpenAI's releases; "
                "convert its tensors to .safetensors"
            )
        return _without_keys(torch.jit.load(path, map_location="cpu").state_dict())
    else:
        state = _tensors(path)
    return _without_keys(state) if set(OPENAI_KEYS) <= set(state) else None


def _without_keys(state: dict) -> dict:
    return {k: v for k, v in state.items() if k not in OPENAI_KEYS}


def _tensors(path: str) -> dict:
    """State that `torch.save` wrote; nothing but tensors and plain values is read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a file that is none makes of the reader
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"backbone weights {path!r} are not tensors alone ({first}); convert them to .safetensors"
        ) from error
    return state.get("state_dict", state)


def published_digests() -> set[str]:
    """SHA-256 of the archives that OpenAI published, by the addresses that open_clip knows."""
    from open_clip import get_pretrained_url, list_openai_models

    return {get_pretrained_url(name, "openai").split("/")[-2] for name in list_openai_models()}


def _is_program(path: str) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
