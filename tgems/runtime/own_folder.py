"""Write thresholds that were fitted to the user's images into the folder of a saved T-GEM."""

from dataclasses import replace
from pathlib import Path

from tgems.backbones.load import Backbone
from tgems.errors import UserError
from tgems.runtime.early_exit import EarlyExit
from tgems.runtime.folder import save
from tgems.runtime.saved_config import read_config


def save_calibrations(backbone: Backbone, early: EarlyExit, folder: Path) -> None:
    """Rewrite a T-GEM's folder with other calibrations, and keep its reference to the backbone.

    Raises:
        UserError: See `save`.
    """
    entry = read_config(folder).backbone.model_dump(exclude_unset=True)
    save(replace(backbone, entry=entry), early, folder)


def require_free_name(folder: Path, name: str, replaced: bool) -> None:
    """Refuse a name for new thresholds that would replace those of a run, unless that is wanted.

    Raises:
        UserError: Thresholds of a run have this name; or the folder is not a T-GEM's on this machine.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder here; thresholds are written into a folder, so download it first")
    point = read_config(folder).calibrations.get(name)
    if point is not None and point.made is None and not replaced:
        raise UserError(f"{folder}: {name!r} are thresholds that a run has fitted; choose another --name, or --replace")
