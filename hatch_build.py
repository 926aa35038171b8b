"""Add to a wheel what stands beside the package in the checkout, and the commit; hatchling runs this."""

import subprocess
from pathlib import Path
from tempfile import mkdtemp

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BESIDE = ("Snakefile", "assets", "configs", "profiles", "workflow")
"""What the workflow consists of; an installed package has it in `tgems/installed` (tgems/checkout.py)."""


class WheelContents(BuildHookInterface):
    """Complete a wheel; an editable installation finds everything in the checkout and needs nothing."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Add the workflow, and `tgems/COMMIT` (tgems/provenance.py) if the sources are a repository."""
        if version == "editable":
            return
        for name in BESIDE:
            build_data["force_include"][name] = f"tgems/installed/{name}"
        if commit := self._commit():
            file = Path(mkdtemp(), "COMMIT")
            file.write_text(f"{commit}\n")
            build_data["force_include"][str(file)] = "tgems/COMMIT"

    def _commit(self) -> str:
        """Return the commit of the sources, with `+dirty` if tracked files differ from it."""
        git = ["git", "-C", self.root]
        head = subprocess.run([*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True)
        top, _, commit = head.stdout.strip().partition("\n")
        if head.returncode or Path(top).resolve() != Path(self.root).resolve():
            return ""
        status = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
        return commit + ("+dirty" if status.stdout.strip() else "")
