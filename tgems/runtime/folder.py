"""Save and load a T-GEM: a folder of exit modules and thresholds that names its backbone by reference and digest.

config.json          tgems/runtime/saved_config.py: backbone, policy, costs, thresholds by data set, digests
model.safetensors    heads and gates
README.md            model card (tgems/runtime/model_card.py)
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import Tensor

from tgems.architectures.open_clip_config import ModelConfig
from tgems.backbones.load import Backbone, build_backbone, preprocessing
from tgems.backbones.references import token_merging_of
from tgems.backbones.source import find_source
from tgems.errors import UserError, reading
from tgems.exits.modules import ExitHeads, Gates
from tgems.exits.saved_modules import BUILDERS, build_module, checked_file, part_of
from tgems.outputs import whole_file, write_json, write_text, writing
from tgems.policies.interface import Policy
from tgems.policies.registry import find_policies
from tgems.provenance import commit, digest_file, versions
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.model_card import model_card
from tgems.runtime.saved_config import (
    CARD,
    CONFIG,
    FORMAT,
    FORMAT_VERSION,
    TENSORS,
    WAY_OUT,
    SavedConfig,
    check_config,
    is_saved,
    read_config,
)
from tgems.untrusted import read_safetensors


def save(backbone: Backbone, early: EarlyExit, folder: Path) -> None:
    """Write a T-GEM's folder, in place of one that it may hold already, and leave other files in it alone.

    All files are written under temporary names before the first is renamed, so that a full disk leaves an older T-GEM
    as it was. config.json is renamed last; until then, its digest does not match the new tensors, which are refused.

    Raises:
        UserError: The folder holds something else, or the T-GEM holds something that could not be loaded again.
    """
    folder = Path(folder)
    with writing(folder, folder):
        check_free(folder)
    tensors = to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors_of(early)})
    file = early.policy.own_file
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backbone": backbone.entry,
        "architecture": backbone.architecture.model_dump(exclude_unset=True),
        "weights": backbone.weights_digest,
        "preprocess": backbone.preprocess_digest,
        "policy": early.policy.name,
        "policy_class": None if file is None else f"{file.name}:{type(early.policy).__name__}",
        "policy_digest": early.policy.own_digest,
        "rate_target": early.rate_target,
        "costs": asdict(early.costs),
        "rates": early.rates().tolist(),
        "modules": {name: {"kind": _kind(m, early)} | m.architecture for name, m in _modules(early).items()},
        "calibrations": {name: _calibration(point) for name, point in early.calibrations.items()},
        "about": early.about,
        "model_digest": hashlib.sha256(tensors).hexdigest(),
        "recorded": {"versions": versions(), "commit": commit()},
    }
    check_config(config, folder)
    with ExitStack() as stack:  # files are renamed in the reverse of this order
        described, card, weights = (stack.enter_context(whole_file(folder / name)) for name in (CONFIG, CARD, TENSORS))
        weights.write_bytes(tensors)
        write_text(card, model_card(early, backbone))
        # Not sorted: the first of the calibrations is the default, which a JSON object keeps by its order alone.
        write_json(described, config, sort_keys=False)


def check_free(folder: Path) -> None:
    """Refuse a folder that holds anything but a T-GEM.

    Raises:
        UserError: It does.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name a new folder to save in")
    names = {p.name for p in folder.iterdir() if not p.name.endswith(".partial")} if folder.is_dir() else set()
    if names and not is_saved(folder):
        raise UserError(f"{folder}: holds files that are not a T-GEM's ({min(names)}); name a new or empty folder")


def load(
    folder: Path,
    backbone: str | Backbone | None = None,
    tokenizer: str | None = None,
    trust_policy_file: str | Path | None = None,
) -> tuple[Backbone, EarlyExit]:
    """Read a T-GEM's folder and its backbone.

    Args:
        folder: As `save` wrote it.
        backbone: A loaded backbone, or the word `pretrained` of a configuration (`local-dir:FOLDER`, `FILE`, ...) to
            read it from another place than the folder names; its digest must be the same.
        tokenizer: `local-dir:FOLDER` or a repository id on the hub, to use instead of the backbone's own tokenizer.
        trust_policy_file: File with the T-GEM's policy class, if that is not one of tgems' own; it is executed.

    Raises:
        UserError: The folder is incomplete, altered, of an unknown or newer format, or for another backbone; or its
            policy is a class in a file that was not given.
    """
    folder = Path(folder)
    config = read_config(folder)
    early = _early_exit(config, folder, _policy(config, folder, trust_policy_file))
    if isinstance(backbone, Backbone):
        if tokenizer is not None:
            raise UserError(
                f"tokenizer {tokenizer!r}: the given backbone has a tokenizer already; leave one of them out"
            )
        loaded = backbone
    else:
        entry = backbone_entry(folder, config, backbone, tokenizer)
        with _errors_that_name(folder, "; name a copy of it by backbone='local-dir:FOLDER' (--backbone)"):
            source = find_source(entry)
            found = (source.config.model_cfg, source.weights_digest, str(preprocessing(source.config)[1]))
        _check_backbone(folder, config, entry, *found)  # before a model or a tokenizer is built
        with _errors_that_name(folder):
            loaded = build_backbone(source)
    found = (loaded.architecture, loaded.weights_digest, loaded.preprocess_digest)
    _check_backbone(folder, config, loaded.entry, *found)
    tower, costs = loaded.tower, early.costs
    if costs.blocks[-1] != tower.depth or costs.widths != tuple(tower.widths[k - 1] for k in costs.blocks[:-1]):
        raise UserError(
            f"{folder / CONFIG}: costs are of exits {list(costs.blocks)} of widths {list(costs.widths)}, which the "
            f"backbone of {tower.depth} blocks does not have; {WAY_OUT}"
        )
    return loaded, early


@contextmanager
def _errors_that_name(folder: Path, way_out: str = "") -> Iterator[None]:
    """Add the T-GEM's folder, and what the user can do, to errors about its backbone."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{folder}: {error}{way_out}") from error


def backbone_entry(folder: Path, config: SavedConfig, pretrained: str | None, tokenizer: str | None) -> dict:
    """Return the backbone's entry of a T-GEM, with the user's changes.

    Raises:
        UserError: The T-GEM names a folder for the tokenizer, which only the user may do.
    """
    changes = {"pretrained": pretrained, "tokenizer": tokenizer}
    entry = config.backbone.model_dump(exclude_unset=True) | {k: v for k, v in changes.items() if v is not None}
    named = entry.get("tokenizer") or ""
    if tokenizer is None and named.startswith("local-dir:"):
        raise UserError(
            f"{folder}: names a folder for its tokenizer; if you trust it, pass tokenizer={named!r} (--tokenizer)"
        )
    return entry


def check_architecture(folder: Path, config: SavedConfig, entry: dict, architecture: ModelConfig) -> None:
    """Compare a backbone's architecture with that of the backbone that a T-GEM was trained on.

    Raises:
        UserError: The architectures embed images or texts differently; the message names the first such key.
    """
    key = config.architecture.differs(architecture)
    if key is not None:
        raise _other_backbone(
            folder, entry, f"{key} {config.architecture.value(key)!r}", f"{architecture.value(key)!r}"
        )


def _check_backbone(
    folder: Path, config: SavedConfig, entry: dict, architecture: ModelConfig, weights: str | None, preprocess: str
) -> None:
    """Compare a backbone, which need not be built yet, with the one that a T-GEM was trained on.

    Args:
        folder: Folder of the T-GEM, for messages.
        config: The T-GEM's configuration.
        entry: The backbone's entry, for messages.
        architecture: The backbone's architecture.
        weights: Digest of the backbone's weights; None for random weights that are not drawn yet.
        preprocess: Description of the backbone's preprocessing.

    Raises:
        UserError: The backbones differ.
    """
    check_architecture(folder, config, entry, architecture)
    merged = token_merging_of(entry)
    if merged != config.backbone.token_merging:
        raise _other_backbone(folder, entry, f"token_merging {config.backbone.token_merging}", str(merged))
    if weights not in (config.weights, None):
        raise _other_backbone(folder, entry, f"weights {config.weights[:12]}", weights[:12])
    if preprocess != config.preprocess:
        ours, own = (" ".join(text.split()) for text in (config.preprocess, preprocess))
        raise _other_backbone(folder, entry, f"preprocess {ours}", own)


def _other_backbone(folder: Path, entry: dict, ours: str, own: str) -> UserError:
    return UserError(
        f"{folder}: made for a backbone with {ours}, but {entry['pretrained']} has {own}; give its own backbone"
    )


def _policy(config: SavedConfig, folder: Path, trusted: str | Path | None) -> Policy:
    """Find the policy. Code runs only from a file that the user names, and only if it is the file of the export."""
    if config.policy_class is None:
        if trusted is not None:
            raise UserError(f"{folder}: policy {config.policy!r} is tgems' own; leave trust_policy_file out")
        return find_policies([config.policy])[config.policy]
    if trusted is None:
        raise UserError(
            f"{folder}: its policy is the class {config.policy_class!r}, which is not part of tgems; if you have its "
            "file and trust it, pass trust_policy_file=FILE (--trust-policy-file FILE)"
        )
    with reading(trusted, "name the file of the policy's class"):
        digest = digest_file(Path(trusted))
    if digest != config.policy_digest:
        raise UserError(
            f"{trusted}: not the file that {folder} was exported with (SHA-256 {digest[:12]} instead of "
            f"{(config.policy_digest or '')[:12]}); use that file, or export the T-GEM again"
        )
    (policy,) = find_policies([f"{trusted}:{config.policy_class.rpartition(':')[2]}"]).values()
    if policy.name != config.policy or not policy.runs:
        raise UserError(f"{folder}: {trusted} defines policy {policy.name!r} instead of {config.policy!r}; {WAY_OUT}")
    return policy


def _early_exit(config: SavedConfig, folder: Path, policy: Policy) -> EarlyExit:
    """Build heads, gates and thresholds. The digest of the tensors is compared before they are read."""
    tensors = read_safetensors(checked_file(folder, TENSORS, config.model_digest, WAY_OUT), WAY_OUT)
    modules, path = {}, folder / TENSORS
    for name, architecture in config.modules.items():
        modules[name] = build_module(architecture, part_of(tensors, name), path, WAY_OUT)
    rest = {key for key in tensors if key.partition(".")[0] not in modules}
    if rest:
        raise UserError(f"{folder / TENSORS}: tensor {min(rest)!r} belongs to no module; {WAY_OUT}")
    heads, gates = modules.get("heads"), modules.get("gates")
    if (heads is None) != policy.frozen_head or (gates is None) != (policy.gates is None):
        raise UserError(
            f"{folder / CONFIG}: modules {sorted(modules)} are not those of policy {policy.name!r}; {WAY_OUT}"
        )
    return EarlyExit(
        policy=policy,
        rate_target=config.rate_target,
        costs=config.costs.costs(),
        heads=heads if isinstance(heads, ExitHeads) else None,
        gates=gates if isinstance(gates, Gates) else None,
        calibrations={
            name: Calibration(**point.model_dump(exclude_unset=True)) for name, point in config.calibrations.items()
        },
        about=config.about.as_dict(),
    )


def tensors_of(early: EarlyExit) -> list[tuple[str, Tensor]]:
    """Return parameters and buffers of heads and gates, by the names they are saved under."""
    return [(f"{name}.{k}", v) for name, m in _modules(early).items() for k, v in m.state_dict().items()]


def _modules(early: EarlyExit) -> dict[str, ExitHeads | Gates]:
    named = {"heads": early.heads, "gates": early.gates}
    return {name: module for name, module in named.items() if module is not None}


def _calibration(point: Calibration) -> dict:
    """Return the content of config.json for a calibration; `made` is left out where there is none."""
    return {key: value for key, value in asdict(point).items() if key != "made" or value is not None}


def _kind(module: ExitHeads | Gates, early: EarlyExit) -> str:
    """Return the kind of a module; several kinds of gates have the same class."""
    wanted = ("heads", early.policy.gates, f"joint_{early.policy.gates}")
    return next(kind for kind, builder in BUILDERS.items() if type(module) is builder and kind in wanted)
