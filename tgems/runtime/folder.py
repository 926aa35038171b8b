"""Save and load a T-GEM: a folder of exit modules and thresholds that names its backbone by reference and digest.

config.json          format version, backbone, policy, costs, thresholds by data set, digest of model.safetensors
model.safetensors    heads and gates
README.md            model card (tgems/runtime/card.py)
"""

from dataclasses import asdict
from pathlib import Path

from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load_file, save_file
from torch import nn

from tgems.backbones.load import Backbone, load_backbone
from tgems.errors import UserError
from tgems.exits.folders import BUILDERS
from tgems.profiling.costs import costs_from
from tgems.provenance import commit, digest_file, read_json, versions, write_json, write_text
from tgems.runtime.card import model_card
from tgems.runtime.model import Calibration, EarlyExit, EarlyExitCLIP

FORMAT, FORMAT_VERSION = "tgems", 1
FIELDS = {
    *("format", "format_version", "backbone", "weights", "preprocess", "policy", "rate_target", "costs", "modules"),
    *("calibrations", "about", "model_digest", "recorded"),
}


class SharedEarlyExitCLIP(EarlyExitCLIP, ModelHubMixin, library_name="tgems", tags=["clip", "early-exit", "open_clip"]):
    """`EarlyExitCLIP` with `save_pretrained`, `from_pretrained` and `push_to_hub`, by huggingface_hub's mixin."""

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options,
    ) -> "SharedEarlyExitCLIP":
        folder = Path(model_id)
        if not folder.is_dir():
            patterns = ["config.json", "model.safetensors", "README.md"]
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=patterns,
                )
            )
        return load(folder, cls, **options)

    def generate_model_card(self, *args, **kwargs):
        """The card of this T-GEM, in place of the mixin's."""
        from huggingface_hub import ModelCard

        return ModelCard(model_card(self))


def save(model: EarlyExitCLIP, folder: Path) -> None:
    """Write a T-GEM's folder; its files are whole or absent, config.json comes last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    early, backbone = model.early_exit, model.backbone
    modules = {"heads": early.heads} | ({} if early.gates is None else {"gates": early.gates})
    tensors = {f"{name}.{k}": v.cpu().contiguous() for name, m in modules.items() for k, v in m.state_dict().items()}
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial)
    partial.replace(folder / "model.safetensors")
    write_text(folder / "README.md", model_card(model))
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backbone": backbone.entry,
        "weights": backbone.weights_digest,
        "preprocess": backbone.preprocess_digest,
        "policy": early.policy,
        "rate_target": early.rate_target,
        "costs": asdict(early.costs),
        "modules": {name: {"kind": _kind(m)} | m.architecture for name, m in modules.items()},
        "calibrations": {name: asdict(point) for name, point in early.calibrations.items()},
        "about": early.about,
        "model_digest": digest_file(folder / "model.safetensors"),
        "recorded": {"versions": versions(), "commit": commit()},
    }
    write_json(folder / "config.json", config)


def load(folder: Path, cls: type = SharedEarlyExitCLIP, backbone: dict | Backbone | None = None, **options):
    """Read a T-GEM's folder and its backbone.

    Args:
        folder: As `save` wrote it.
        cls: Class to build.
        backbone: A loaded backbone, or a configuration entry (`model`, `pretrained`) in place of the folder's own
            reference; its digest must be the same.
        options: Of `EarlyExitCLIP`: `calibration`, `max_rate`, `chunk`.

    Raises:
        UserError: The folder is not whole, altered, of an unknown or newer format, or for another backbone.
    """
    folder = Path(folder)
    config = read_config(folder)
    if digest_file(folder / "model.safetensors") != config["model_digest"]:
        raise UserError(f"{folder / 'model.safetensors'}: truncated or altered; save or download the folder again")
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone or config["backbone"])
    for name, own in (("weights", loaded.weights_digest), ("preprocess", loaded.preprocess_digest)):
        if own != config[name]:
            raise UserError(
                f"{folder}: made for a backbone ({config['backbone']}) with {name} {_short(config[name])}, but "
                f"{loaded.entry} has {_short(own)}; give that backbone"
            )
    modules, tensors = {}, load_file(folder / "model.safetensors")
    for name, architecture in config["modules"].items():
        module = BUILDERS[architecture.pop("kind")](**architecture)
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        modules[name] = module.eval().requires_grad_(False)
    early = EarlyExit(
        policy=config["policy"],
        rate_target=config["rate_target"],
        costs=costs_from(config),
        heads=modules["heads"],
        gates=modules.get("gates"),
        calibrations={name: _calibration(point) for name, point in config["calibrations"].items()},
        about=config["about"],
    )
    return cls(loaded, early, **options)


def read_config(folder: Path) -> dict:
    """Read and check config.json.

    Raises:
        UserError: It is missing, of another format, of a newer version, or has unknown or missing fields.
    """
    path = Path(folder) / "config.json"
    if not path.is_file() or not (Path(folder) / "model.safetensors").is_file():
        raise UserError(f"{folder}: no T-GEM's folder, config.json or model.safetensors is missing")
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise UserError(f"{path}: format is {config.get('format')!r}, expected {FORMAT!r}: not a T-GEM's folder")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {config.get('format_version')!r}, this tgems reads {FORMAT_VERSION}; "
            "install a newer tgems, or save the T-GEM again"
        )
    if unknown := sorted(set(config) - FIELDS):
        raise UserError(f"{path}: unknown field {unknown[0]!r}; known: {', '.join(sorted(FIELDS))}")
    if missing := sorted(FIELDS - set(config)):
        raise UserError(f"{path}: field {missing[0]!r} is missing; save or download the folder again")
    return config


def _kind(module: nn.Module) -> str:
    return next(kind for kind, builder in BUILDERS.items() if type(module) is builder and kind != "lookahead")


def _calibration(point: dict) -> Calibration:
    visited = point["visited"]
    return Calibration(**point | {"visited": None if visited is None else tuple(visited)})


def _short(digest: str) -> str:
    return digest if len(digest) != 64 else digest[:12]
