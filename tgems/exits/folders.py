"""Rebuild trained modules from the folders that the exits stage writes."""

from pathlib import Path

from safetensors.torch import load_file

from tgems.errors import UserError
from tgems.exits.modules import BankGates, ExitHeads, ImageGates, LookaheadGates
from tgems.provenance import read_json

BUILDERS = {
    "heads": ExitHeads,
    "lookahead": LookaheadGates,
    "image": LookaheadGates,
    "bank": BankGates,
    "confidence": ImageGates,
}


def load_module(folder: Path, weights: str):
    """Rebuild a trained module from its folder.

    Args:
        folder: Folder with `config.json` and `model.safetensors`.
        weights: Digest of the backbone in use.

    Raises:
        UserError: The folder is not whole, or the module was trained on another backbone.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; the module is not whole, delete the folder and run again")
    config = read_json(folder / "config.json")
    if config["weights"] != weights:
        raise UserError(
            f"{folder}: trained on backbone weights {config['weights'][:12]}, but features of {weights[:12]} are in "
            "use; delete the folder and run again"
        )
    module = BUILDERS[config["kind"]](**config["architecture"])
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module.eval().requires_grad_(False)
