"""Rebuild trained modules from files: from the folders that the exits stage writes, and from saved T-GEMs."""

from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from tgems.errors import UserError
from tgems.exits.architecture import Architecture
from tgems.exits.bank_modules import BankGates, ConfidenceAndVarianceGates, JointBankGates
from tgems.exits.modules import ExitHeads, Gates, ImageGates, LookaheadGates
from tgems.provenance import digest_file
from tgems.untrusted import Closed, Digest, file_inside, read_json_as, read_safetensors

BUILDERS = {
    "heads": ExitHeads,
    "lookahead": LookaheadGates,
    "image": LookaheadGates,
    "bank": BankGates,
    "confidence": ImageGates,
    "variance": ConfidenceAndVarianceGates,
    "router": ImageGates,
    "joint_image": ImageGates,
    "joint_bank": JointBankGates,
}
RUN_AGAIN = "delete the folder and run again"
TENSORS, EXTRA = "model.safetensors", "training.safetensors"


class ModuleConfig(Closed):
    """The config.json of a trained module.

    Attributes:
        architecture: Kind and sizes.
        options: Options of the training.
        blocks: Exits, 1-based; the last is L.
        weights: Digest of the backbone's weights.
        training_data: Number of images and digests of shards.
        model_digest: SHA-256 of `model.safetensors`.
        extra_digest: SHA-256 of `training.safetensors`, which later training reads; None if there is no such file.
        recorded: Versions of packages and the commit.
    """

    architecture: Architecture
    options: dict[str, JsonValue]
    blocks: tuple[int, ...]
    weights: Digest
    training_data: dict[str, JsonValue]
    model_digest: Digest
    extra_digest: Digest | None
    recorded: dict[str, JsonValue]


def load_module(folder: Path | str, weights: str) -> nn.Module:
    """Rebuild a trained module from its folder.

    Args:
        folder: Folder with `config.json` and `model.safetensors`.
        weights: Digest of the backbone in use.

    Raises:
        UserError: A file is missing or was altered, or the module was trained on another backbone.
    """
    config = read_module_config(folder)
    if config.weights != weights:
        raise UserError(
            f"{folder}: trained on backbone weights {config.weights[:12]}, but features of {weights[:12]} are in "
            f"use; {RUN_AGAIN}"
        )
    path = checked_file(folder, TENSORS, config.model_digest, RUN_AGAIN)
    return build_module(config.architecture, read_safetensors(path, RUN_AGAIN), path, RUN_AGAIN)


def load_heads(folder: Path | str, weights: str) -> ExitHeads:
    """Rebuild exit heads; see `load_module`."""
    module = load_module(folder, weights)
    if not isinstance(module, ExitHeads):
        raise UserError(f"{folder}: holds no exit heads; {RUN_AGAIN}")
    return module


def load_gates(folder: Path | str, weights: str) -> Gates:
    """Rebuild gates; see `load_module`."""
    module = load_module(folder, weights)
    if not isinstance(module, Gates):
        raise UserError(f"{folder}: holds no gates; {RUN_AGAIN}")
    return module


def load_extra(folder: Path | str) -> dict[str, Tensor]:
    """Read the tensors that were kept beside a module for later training.

    Raises:
        UserError: The file is missing or was altered.
    """
    path = checked_file(folder, EXTRA, read_module_config(folder).extra_digest, RUN_AGAIN)
    return read_safetensors(path, RUN_AGAIN)


def load_folds(folder: Path | str) -> tuple[list[ExitHeads], Tensor] | None:
    """Rebuild the cross-fitted heads that were kept beside the heads of a folder; None if there are none.

    Returns:
        The heads of either half, and for each training image the number of the heads that have not seen it `[n]`.

    Raises:
        UserError: The file is missing, was altered, or does not hold such heads.
    """
    config = read_module_config(folder)
    if config.extra_digest is None:
        return None
    tensors, path = load_extra(folder), Path(folder) / EXTRA
    folds = [build_module(config.architecture, part_of(tensors, name), path, RUN_AGAIN) for name in ("0", "1")]
    return [heads for heads in folds if isinstance(heads, ExitHeads)], tensors["unseen_by"]


def part_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one module from a file of several, in which its keys begin with its name and a dot."""
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def read_module_config(folder: Path | str) -> ModuleConfig:
    """Read the `config.json` of a trained module.

    Raises:
        UserError: The file is missing or damaged.
    """
    return read_json_as(ModuleConfig, file_inside(Path(folder), "config.json", RUN_AGAIN), RUN_AGAIN)


def checked_file(folder: Path | str, name: str, digest: str | None, way_out: str) -> Path:
    """Return the path of a file after comparing its SHA-256.

    Raises:
        UserError: The file is missing, a link out of the folder, or has another digest.
    """
    path = file_inside(Path(folder), name, way_out)
    if digest_file(path) != digest:
        raise UserError(f"{path}: truncated or altered; {way_out}")
    return path


def build_module(architecture: Architecture, tensors: dict[str, Tensor], path: Path, way_out: str) -> nn.Module:
    """Build a frozen module in eval mode.

    Shapes are first compared on the meta device, so that absurd sizes in a configuration do not take up memory.

    Args:
        architecture: Kind and sizes.
        tensors: The module's state.
        path: File of the tensors, for messages.
        way_out: What the user can do about a bad file.

    Raises:
        UserError: The tensors do not have the shapes of the architecture, or are not finite.
    """
    builder, sizes = BUILDERS[architecture.kind], architecture.model_dump(exclude={"kind"})
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in builder(**sizes).state_dict().items()}
    for name in sorted({*expected, *tensors}):
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != expected.get(name):
            raise UserError(
                f"{path}: tensor {name!r} of {architecture.kind} has shape {shape}, but config.json describes "
                f"{expected.get(name)}; {way_out}"
            )
        if not tensors[name].isfinite().all():
            raise UserError(
                f"{path}: tensor {name!r} of {architecture.kind} holds values that are not finite; {way_out}"
            )
    module = builder(**sizes)
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)
