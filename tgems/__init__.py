"""T-GEMs: train, evaluate and run text-guided exit modules on CLIP image encoders. Imports are lazy."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgems.options import names_nearest_option

if TYPE_CHECKING:
    from tgems.runtime.model import EarlyExitCLIP

__version__ = "0.1.0"
__all__ = ["EarlyExitCLIP", "__version__", "create_model_and_transforms", "from_pretrained", "get_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import `EarlyExitCLIP` when it is first accessed."""
    if name == "EarlyExitCLIP":
        from tgems.runtime.model import EarlyExitCLIP

        return EarlyExitCLIP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@names_nearest_option
def from_pretrained(
    folder_or_hub_id: str | Path,
    *,
    device: str = "cpu",
    calibration: str | None = None,
    max_rate: float | None = None,
    chunk: int | None = None,
    backbone: str | None = None,
    tokenizer: str | None = None,
    trust_policy_file: str | Path | None = None,
    hub_kwargs: dict[str, Any] | None = None,
) -> "EarlyExitCLIP":
    """Load a saved T-GEM with its backbone.

    Args:
        folder_or_hub_id: Folder that `tgems export` or `save_pretrained` wrote, or `owner/name` on the hub.
        device: Device to run on, such as `cpu` or `cuda`.
        calibration: Data set whose thresholds are used; None for the first.
        max_rate: Share of the encoder's computation that no image may exceed; None for no cap.
        chunk: Number of images per forward pass; None to choose it by the size of the encoder.
        backbone: Where to read the backbone instead of the reference that the folder holds: `local-dir:FOLDER`,
            `hf-hub:ID` or a checkpoint file.
        tokenizer: `local-dir:FOLDER` or a repository id on the hub, to use instead of the backbone's own tokenizer.
        trust_policy_file: Your copy of the file that holds the T-GEM's policy class, if its policy is not one of
            tgems' own. It is executed.
        hub_kwargs: Options of huggingface_hub's `snapshot_download`: `revision`, `cache_dir`, `token`, ...

    Raises:
        UserError: The folder or its backbone cannot be loaded, or they do not belong together.
    """
    from tgems.runtime.model import EarlyExitCLIP

    return EarlyExitCLIP.from_pretrained(
        folder_or_hub_id,
        device=device,
        calibration=calibration,
        max_rate=max_rate,
        chunk=chunk,
        backbone=backbone,
        tokenizer=tokenizer,
        trust_policy_file=trust_policy_file,
        hub_kwargs=hub_kwargs,
    )


@names_nearest_option
def create_model_and_transforms(
    folder_or_hub_id: str | Path,
    *,
    aug_cfg: dict[str, Any] | None = None,
    device: str = "cpu",
    calibration: str | None = None,
    max_rate: float | None = None,
    chunk: int | None = None,
    backbone: str | None = None,
    tokenizer: str | None = None,
    trust_policy_file: str | Path | None = None,
    hub_kwargs: dict[str, Any] | None = None,
) -> "tuple[EarlyExitCLIP, Callable, Callable]":
    """Load a saved T-GEM with its backbone, as `open_clip.create_model_and_transforms` loads a model.

    Args:
        folder_or_hub_id: See `from_pretrained`, as for all options but `aug_cfg`.
        aug_cfg: Augmentation of the training transform, open_clip's `AugmentationCfg` as a mapping.
        device: Device to run on.
        calibration: Data set whose thresholds are used.
        max_rate: Share of the encoder's computation that no image may exceed.
        chunk: Number of images per forward pass.
        backbone: Where to read the backbone.
        tokenizer: Tokenizer to use instead of the backbone's own.
        trust_policy_file: File of a policy class of your own.
        hub_kwargs: Options of huggingface_hub's `snapshot_download`.

    Returns:
        Model (`tgems.EarlyExitCLIP`), transform for training, transform for inference.

    Raises:
        UserError: The folder or its backbone cannot be loaded, or they do not belong together.
    """
    from tgems.backbones.load import train_transform

    model = from_pretrained(
        folder_or_hub_id,
        device=device,
        calibration=calibration,
        max_rate=max_rate,
        chunk=chunk,
        backbone=backbone,
        tokenizer=tokenizer,
        trust_policy_file=trust_policy_file,
        hub_kwargs=hub_kwargs,
    )
    return model, train_transform(model.backbone, aug_cfg), model.preprocess


@names_nearest_option
def get_tokenizer(
    folder_or_hub_id: str | Path,
    *,
    backbone: str | None = None,
    tokenizer: str | None = None,
    hub_kwargs: dict[str, Any] | None = None,
) -> Callable:
    """Load the tokenizer of a saved T-GEM's backbone, as `open_clip.get_tokenizer` does, without reading weights.

    Args:
        folder_or_hub_id: See `from_pretrained`.
        backbone: Where to read the backbone's architecture instead of the reference that the folder holds.
        tokenizer: `local-dir:FOLDER` or a repository id on the hub, to use instead of the backbone's own tokenizer.
        hub_kwargs: Options of huggingface_hub's `snapshot_download`.

    Returns:
        Texts -> int64 `[m, context_length]`.

    Raises:
        UserError: It is not a saved T-GEM, or its backbone is unknown here.
    """
    from tgems.runtime.hub import load_tokenizer

    return load_tokenizer(folder_or_hub_id, tokenizer, backbone, **(hub_kwargs or {}))
