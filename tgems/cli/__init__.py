"""The command line `tgems`: it parses, calls a function of the library and prints. Functions import what is heavy."""

from tgems.cli import calibration, estimate, own_images, runs, training
from tgems.cli.console import app
from tgems.process import collect_garbage_rarely

__all__ = ["app", "calibration", "estimate", "main", "own_images", "runs", "training"]


def main() -> None:
    """Run the command line."""
    collect_garbage_rarely()
    app(prog_name="tgems")
