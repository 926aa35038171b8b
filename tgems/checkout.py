"""Find the workflow, its configurations and the shipped backbones: beside the package, or inside an installed one."""

from pathlib import Path

PACKAGE = Path(__file__).parent
INSTALLED = PACKAGE / "installed"
"""Folder inside a wheel for the files that are beside `tgems/` in a checkout (hatch_build.py)."""

CHECKOUT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
"""Folder of `Snakefile`, `workflow/`, `configs/`, `profiles/` and `assets/`."""
