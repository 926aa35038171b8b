"""Build an `EarlyExitCLIP` from the results folder of a finished run."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from tgems.backbones.load import load_backbone
from tgems.costs.exit_costs import ExitCosts
from tgems.costs.saved_costs import read_costs
from tgems.errors import UserError
from tgems.evaluation.estimates import HEADLINE
from tgems.evaluation.thresholds import read_thresholds
from tgems.exits.module_folders import image_gates_folder, joint_folder
from tgems.exits.saved_modules import load_gates, load_heads
from tgems.policies.interface import Policy
from tgems.policies.registry import POLICIES, find_policies
from tgems.provenance import FINISHED, read_provenance
from tgems.runtime.early_exit import Calibration, EarlyExit
from tgems.runtime.model import EarlyExitCLIP
from tgems.untrusted import Closed, explain, read_table

COLUMNS = (
    *("backbone", "variant", "dataset", "policy", "twin_of", "calibration"),
    *("score_normalisation", "seed", "metric"),
)
NUMBERS = ("rate_target", "exit_block", "value", "rate")


class _Part(Closed):
    """A part of a run's configuration; keys that export does not need are ignored."""

    model_config = Closed.model_config | {"extra": "ignore"}


class _Training(_Part):
    dataset: str


class _Scheme(_Part):
    scheme: Literal["staged", "joint"]


class _Variant(_Part):
    rate_targets: Annotated[tuple[float, ...], Field(min_length=1)]
    training: _Scheme


class _RunConfig(_Part):
    backbones: dict[str, dict[str, JsonValue]]
    variants: dict[str, _Variant]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    policies: tuple[str, ...]
    datasets: dict[str, JsonValue]
    training: _Training


def from_results(
    results: Path,
    backbone: str,
    policy: str = "tgem",
    rate_target: float | None = 0.6,
    exit_block: int | None = None,
    variant: str | None = None,
    seed: int | None = None,
    **options: Any,
) -> EarlyExitCLIP:
    """Build a model from a finished run.

    Args:
        results: Results folder of a run.
        backbone: Its name in the configuration.
        policy: A policy of the run that decides image by image; one of your own by `FILE.py:CLASS`, which is executed.
        rate_target: One of the run's rate targets; ignored for fixed exits.
        exit_block: For fixed exits: the block after which all images leave.
        variant: Variant; None if there is only one.
        seed: Seed; None for the first.
        options: Options of `EarlyExitCLIP`.

    Raises:
        UserError: The run has no such backbone, variant, policy, rate target or seed; the message lists those that it
            has.
    """
    results = Path(results)
    config = _read_run(results / "tables/provenance.json")
    chosen = _policy(policy, config)
    if not chosen.adaptive:
        rate_target = None
    variant, seed = _chosen(config, backbone, rate_target, variant, seed)
    loaded = load_backbone(config.backbones[backbone])
    costs = read_costs(results / f"profiling/{backbone}/{variant}/macs.json")
    if reason := chosen.unusable(costs):
        raise UserError(f"policy {chosen.name!r} cannot be used with backbone {backbone!r}: {reason}")
    exits = results / "exits" / backbone / variant
    heads, gates = _module_folders(chosen, config.variants[variant].training.scheme, seed, rate_target)
    if rate_target is None:
        calibrations = {"all": _fixed(chosen, costs, exit_block)}
    else:
        folder = results / "evaluation" / backbone / variant
        calibrations = _calibrations(folder, config, chosen, costs, rate_target, seed)
    keys = {"backbone": backbone, "variant": variant, "policy": chosen.name}
    keys |= {} if chosen.frozen_head else {"seed": str(seed)}
    training = config.training.dataset
    early = EarlyExit(
        policy=chosen,
        rate_target=rate_target,
        costs=costs,
        heads=None if heads is None else load_heads(exits / heads, loaded.weights_digest),
        gates=None if gates is None else load_gates(exits / gates, loaded.weights_digest),
        calibrations=calibrations,
        about={"name": backbone, "variant": variant, "seed": seed, "trained_on": training}
        | {"results": _results(results, keys, training, rate_target, exit_block)},
    )
    return EarlyExitCLIP(loaded, early, **options)


def _read_run(path: Path) -> _RunConfig:
    """Read the parts of a run's recorded configuration that export needs.

    Raises:
        UserError: The record is missing or damaged, or lacks a part of the configuration.
    """
    try:
        return _RunConfig.model_validate_json(json.dumps(read_provenance(path)["config"]))
    except ValidationError as error:
        raise UserError(f"{path}: config: {explain(error, _RunConfig)}; {FINISHED}") from None


def _policy(word: str, config: _RunConfig) -> Policy:
    """Find a policy of the run that can be run. Only a file that the user names is executed."""
    known = [name for name in config.policies if ":" not in name and name in POLICIES and POLICIES[name].runs]
    classes = [name.rpartition(":")[2] for name in config.policies if ":" in name]
    if word.rpartition(":")[2] in classes and ":" in word:
        policy = find_policies([word]).popitem()[1]
        return policy
    if word in config.policies and word not in known:
        raise UserError(
            f"policy {word!r} does not decide image by image, so that it cannot be exported; use {', '.join(known)}"
        )
    _require_known("policy", word, [*known, *(f"FILE.py:{name}" for name in classes)])
    return POLICIES[word]


def _chosen(
    config: _RunConfig, backbone: str, rate_target: float | None, variant: str | None, seed: int | None
) -> tuple[str, int]:
    """Choose variant and seed if they are not given; all must be the run's."""
    if variant is None:
        variant = next(iter(config.variants)) if len(config.variants) == 1 else ""
    seed = config.seeds[0] if seed is None else seed
    _require_known("backbone", backbone, config.backbones)
    _require_known("variant", variant, config.variants)
    _require_known("seed", seed, config.seeds)
    if rate_target is not None:
        _require_known("rate target", rate_target, config.variants[variant].rate_targets)
    return variant, seed


def _module_folders(policy: Policy, scheme: str, seed: int, rate_target: float | None) -> tuple[str | None, str | None]:
    """Return the folders of a policy's heads and gates; None for what it does not have."""
    if scheme == "joint" and policy.gates in ("image", "bank") and rate_target is not None:
        folder = joint_folder(policy.gates, seed, rate_target)
        return f"{folder}/heads", f"{folder}/gates"
    heads = None if policy.frozen_head else f"heads/seed-{seed}"
    if policy.gates == "image" and rate_target is not None:
        return heads, image_gates_folder(seed, rate_target)
    return heads, None if policy.gates is None else f"{policy.gates}/seed-{seed}"


def _fixed(policy: Policy, costs: ExitCosts, exit_block: int | None) -> Calibration:
    """Return a calibration with which all images leave after one block."""
    _require_known("exit block", exit_block, costs.blocks[:-1])
    exit_index = costs.blocks.index(exit_block)
    return Calibration(None, (exit_index,), float(policy.costs(costs, 0)[exit_index]))


def _calibrations(
    folder: Path, config: _RunConfig, policy: Policy, costs: ExitCosts, rate_target: float, seed: int
) -> dict[str, Calibration]:
    """Read thresholds by data set; those of the training domain come first, as the default for other data."""
    training, own_seed = config.training.dataset, None if policy.frozen_head else seed
    names = [training, *(d for d in config.datasets if d != training and (folder / d / "thresholds.json").is_file())]
    found = {}
    for name in names:
        for fit in read_thresholds(folder / name / "thresholds.json", costs).thresholds:
            point = fit.point
            same = point.rate_target is not None and math.isclose(point.rate_target, rate_target)
            if (fit.policy, fit.seed, fit.score_normalisation) == (policy.name, own_seed, "none") and same:
                found[name] = Calibration(point.thresholds, point.visited, fit.rate_validation, fit.spread)
    if training not in found:
        raise UserError(
            f"{folder / training / 'thresholds.json'}: holds none of {policy.name} at {rate_target}; run it again"
        )
    return found


def _results(
    results: Path, keys: dict[str, str], training: str, rate_target: float | None, exit_block: int | None
) -> list[dict]:
    """Read headline metrics on test images, beside the full encoder's, per data set and calibration.

    Args:
        results: Results folder.
        keys: Columns of tradeoff.csv that must agree.
        training: Data set whose thresholds are the transferred ones.
        rate_target: None for a fixed exit.
        exit_block: Block of a fixed exit; None otherwise.
    """
    path = results / "tables/tradeoff.csv"
    points = read_table(path, COLUMNS, FINISHED, NUMBERS, dtype={"seed": "string"}, low_memory=False)
    points = points[points["metric"].isin(HEADLINE) & points["twin_of"].isna()]
    points = points[points["score_normalisation"].eq("none") & points["calibration"].ne("online")]
    points = points[points["backbone"].eq(keys["backbone"]) & points["variant"].eq(keys["variant"])]
    full = points[points["policy"].eq("full")].set_index(["dataset", "metric"])["value"].to_dict()
    own = points[points["policy"].eq(keys["policy"])]
    own = own[own["seed"].eq(keys["seed"])] if "seed" in keys else own[own["seed"].isna()]
    if rate_target is None:
        own = own[own["exit_block"].eq(exit_block or 0)].assign(by="all")
    else:
        own = own[own["rate_target"].sub(rate_target).abs() < 1e-9]
        own = own.assign(by=own["dataset"].where(own["calibration"].ne("transfer"), training))
    found = own.drop_duplicates(["dataset", "by", "metric"]).to_dict("records")
    if alone := [r for r in found if (r["dataset"], r["metric"]) not in full]:
        raise UserError(f"{path}: holds no {alone[0]['metric']} of policy 'full' on {alone[0]['dataset']}; {FINISHED}")
    return [
        {"dataset": r["dataset"], "calibration": r["by"], "metric": r["metric"]}
        | {"value": r["value"], "full": full[r["dataset"], r["metric"]], "rate": r["rate"]}
        for r in found
    ]


def _require_known(what: str, value: object, known: Iterable) -> None:
    if value not in known:
        raise UserError(f"{what} {value!r} is not in this run; it has {', '.join(map(str, known))}")
