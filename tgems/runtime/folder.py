"""Save and load a T-GEM: a folder of exit modules and thresholds that names its backbone by reference and digest.

config.json          format version, backbone, policy, costs, thresholds by data set, digest of model.safetensors
model.safetensors    heads and gates
README.md            model card (tgems/runtime/card.py)
"""

from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tgems.backbones.load import Backbone, load_backbone
from tgems.errors import UserError
from tgems.exits.folders import BUILDERS
from tgems.profiling.costs import costs_from
from tgems.provenance import commit, digest_file, read_json, versions, whole_file, write_json, write_text
from tgems.runtime.card import model_card
from tgems.runtime.describe import FORMAT, FORMAT_VERSION, read_config
from tgems.runtime.model import Calibration, EarlyExit, EarlyExitCLIP


def save(model: EarlyExitCLIP, folder: Path) -> None:
    """Write a T-GEM's folder, in place of one that it may hold already; its files are whole, config.json comes last.

    Raises:
        UserError: The folder holds something else.
    """
    folder = Path(folder)
    check_free(folder)
    early, backbone = model.early_exit, model.backbone
    (folder / "config.json").unlink(missing_ok=True)  # until the new one stands, there is no T-GEM here
    with whole_file(folder / "model.safetensors") as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors_of(early)}, partial)
    write_text(folder / "README.md", model_card(early, backbone))
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backbone": backbone.entry,
        "weights": backbone.weights_digest,
        "preprocess": backbone.preprocess_digest,
        "policy": early.policy,
        "rate_target": early.rate_target,
        "costs": asdict(early.costs),
        "rates": early.rates().tolist(),
        "modules": {name: {"kind": _kind(m)} | m.architecture for name, m in _modules(early).items()},
        "calibrations": {name: asdict(point) for name, point in early.calibrations.items()},
        "about": early.about,
        "model_digest": digest_file(folder / "model.safetensors"),
        "recorded": {"versions": versions(), "commit": commit()},
    }
    # Not sorted: the first of the calibrations is the default, which a JSON object keeps by its order alone.
    write_json(folder / "config.json", config, sort_keys=False)


def check_free(folder: Path) -> None:
    """Refuse a folder that holds anything but a T-GEM.

    Raises:
        UserError: It does.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name a new folder to save in")
    names = {p.name for p in folder.iterdir() if not p.name.endswith(".partial")} if folder.is_dir() else set()
    config = folder / "config.json"
    if "config.json" in names and read_json(config).get("format") == FORMAT:
        return
    if names:
        raise UserError(f"{folder}: holds files that are no T-GEM's ({sorted(names)[0]}); name a new or empty folder")


def load(
    folder: Path, backbone: str | Backbone | None = None, cls: type[EarlyExitCLIP] = EarlyExitCLIP, **options
) -> EarlyExitCLIP:
    """Read a T-GEM's folder and its backbone.

    Args:
        folder: As `save` wrote it.
        backbone: A loaded backbone, or the word `pretrained` of a configuration (`local-dir:FOLDER`, `FILE`, ...) to
            read it from elsewhere than the folder says; its digest must be the same.
        cls: What to build.
        options: Of `EarlyExitCLIP`: `calibration`, `max_rate`, `chunk`.

    Raises:
        UserError: The folder is not whole, altered, of an unknown or newer format, or for another backbone.
    """
    folder = Path(folder)
    config = read_config(folder)
    if digest_file(folder / "model.safetensors") != config["model_digest"]:
        raise UserError(f"{folder / 'model.safetensors'}: truncated or altered; export or download the folder again")
    loaded = _backbone(folder, config["backbone"], backbone)
    for name, own in (("weights", loaded.weights_digest), ("preprocess", loaded.preprocess_digest)):
        if own != config[name]:
            raise UserError(
                f"{folder}: made for a backbone with {name} {_short(config[name])}, but {loaded.entry['pretrained']} "
                f"has {_short(own)}; give its own backbone"
            )
    try:
        early = _early_exit(config, load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder / 'config.json'}: altered ({first}); export or download the folder again") from error
    return cls(loaded, early, **options)


def _backbone(folder: Path, entry: dict, other: str | Backbone | None) -> Backbone:
    if isinstance(other, Backbone):
        return other
    try:
        return load_backbone(entry if other is None else entry | {"pretrained": other})
    except UserError as error:
        raise UserError(f"{folder}: {error}; name a copy of it by backbone='local-dir:FOLDER' (--backbone)") from error


def _early_exit(config: dict, tensors: dict[str, Tensor]) -> EarlyExit:
    modules = {}
    for name, architecture in config["modules"].items():
        module = BUILDERS[architecture.pop("kind")](**architecture)
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        modules[name] = module.eval().requires_grad_(False)
    return EarlyExit(
        policy=config["policy"],
        rate_target=config["rate_target"],
        costs=costs_from(config),
        heads=modules["heads"],
        gates=modules.get("gates"),
        calibrations={name: _calibration(point) for name, point in config["calibrations"].items()},
        about=config["about"],
    )


def tensors_of(early: EarlyExit) -> list[tuple[str, Tensor]]:
    """Parameters and buffers of heads and gates, by the names they are saved under."""
    return [(f"{name}.{k}", v) for name, m in _modules(early).items() for k, v in m.state_dict().items()]


def _modules(early: EarlyExit) -> dict[str, nn.Module]:
    return {"heads": early.heads} | ({} if early.gates is None else {"gates": early.gates})


def _kind(module: nn.Module) -> str:
    return next(kind for kind, builder in BUILDERS.items() if type(module) is builder and kind != "lookahead")


def _calibration(point: dict) -> Calibration:
    visited = point["visited"]
    return Calibration(**point | {"visited": None if visited is None else tuple(visited)})


def _short(digest: str) -> str:
    return " ".join(digest.split()) if len(digest) != 64 else digest[:12]
