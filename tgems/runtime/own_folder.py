"""Write thresholds that were fitted to the user's images into the folder of a saved T-GEM."""

from dataclasses import replace
from pathlib import Path

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.runtime.calibration import check_name
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.folder import save
from tgems.runtime.saved_config import read_config


def save_calibration(backbone: Backbone, early: EarlyExit, folder: Path, name: str) -> None:
    """Rewrite a T-GEM's folder with a further calibration, and keep its reference to the backbone.

    All other calibrations are those that the folder holds now, since another process may have added some.

    Args:
        backbone: The T-GEM's backbone.
        early: The T-GEM.
        folder: Its folder.
        name: Name of the calibration to add or replace.

    Raises:
        UserError: See `save`.
    """
    config = read_config(folder)
    entry = config.backbone.model_dump(exclude_unset=True)
    kept = {other: Calibration(**point.model_dump(exclude_unset=True)) for other, point in config.calibrations.items()}
    early = replace(early, calibrations=kept | {name: early.calibrations[name]})
    save(replace(backbone, entry=entry), early, folder)


def require_free_name(folder: Path, name: str, replaced: bool) -> None:
    """Refuse a name for new thresholds that would replace those of a run, unless that is wanted.

    Raises:
        UserError: Thresholds of a run have this name, `check_name` refuses it, or the folder is not a T-GEM's on this
            machine.
    """
    check_name(name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder here; thresholds are written into a folder, so download it first")
    point = read_config(folder).calibrations.get(name)
    if point is not None and point.made is None and not replaced:
        raise UserError(f"{folder}: {name!r} are thresholds that a run has fitted; choose another --name, or --replace")
