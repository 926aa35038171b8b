"""Write thresholds for one's own images into the folder of a saved T-GEM."""

from dataclasses import replace
from pathlib import Path

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.runtime.calibration import check_name
from tgems.runtime.early_exit import EarlyExit
from tgems.runtime.folder import save
from tgems.runtime.saved_config import read_config


def save_calibrations(backbone: Backbone, early: EarlyExit, folder: Path) -> None:
    """Write a T-GEM's folder anew with other calibrations; it goes on naming its backbone as it did.

    Raises:
        UserError: See `save`.
    """
    entry = read_config(folder).backbone.model_dump(exclude_unset=True)
    save(replace(backbone, entry=entry), early, folder)


def require_free_name(folder: Path, name: str, replaced: bool) -> None:
    """Refuse a name for thresholds of one's own that would replace those of a run, unless that is wanted.

    Raises:
        UserError: Thresholds of a run have this name; see `check_name`; or the folder is not
            a T-GEM's on this machine.
    """
    check_name(name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder here; thresholds are written into a folder, so download it first")
    point = read_config(folder).calibrations.get(name)
    if point is not None and point.made is None and not replaced:
        raise UserError(f"{folder}: {name!r} are thresholds that a run has fitted; choose another --name, or --replace")
