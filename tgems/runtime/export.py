"""Make an `EarlyExitCLIP` of what the workflow trained. Reads a results folder."""

import math
from pathlib import Path

from tgems.backbones.load import load_backbone
from tgems.costs.exit_costs import ExitCosts, read_costs
from tgems.errors import UserError
from tgems.evaluation.estimates import HEADLINE
from tgems.exits.module_folders import image_gates_folder, joint_folder
from tgems.exits.saved_modules import load_module
from tgems.provenance import FINISHED, read_json, read_provenance
from tgems.runtime.model import Calibration, EarlyExit, EarlyExitCLIP
from tgems.runtime.rules import POLICIES
from tgems.untrusted import read_table

NEEDED = ("backbones", "variants", "seeds", "policies", "datasets", "training")
COLUMNS = (
    *("backbone", "variant", "dataset", "policy", "twin_of", "calibration"),
    *("score_normalisation", "seed", "metric"),
)
NUMBERS = ("rate_target", "exit_block", "value", "rate")


def from_results(
    results: Path,
    backbone: str,
    policy: str = "tgem",
    rate_target: float | None = 0.6,
    exit_block: int | None = None,
    variant: str | None = None,
    seed: int | None = None,
    **options,
) -> EarlyExitCLIP:
    """Build a model from a finished run.

    Args:
        results: Folder `results` of a run.
        backbone: Its name in the configuration.
        policy: One of `tgems.runtime.rules.POLICIES`.
        rate_target: One of the run's; ignored for `fixed`.
        exit_block: For `fixed`: the block after which all leave.
        variant: None where there is one alone.
        seed: None for the first.
        options: Of `EarlyExitCLIP`.

    Raises:
        UserError: The run has no such backbone, variant, policy, rate target or seed; names those that it has.
    """
    results = Path(results)
    config = read_provenance(results / "tables/provenance.json")["config"]
    if missing := [key for key in NEEDED if key not in config]:
        raise UserError(f"{results}: its configuration has no {missing[0]!r}; run it again with this version of tgems")
    if policy == "fixed":
        rate_target = None
    variant, seed = _chosen(config, backbone, policy, rate_target, variant, seed)
    loaded = load_backbone(config["backbones"][backbone])
    costs = read_costs(results / f"profiling/{backbone}/{variant}/macs.json")
    exits = results / "exits" / backbone / variant
    heads, gates = _module_folders(policy, config["variants"][variant]["training"]["scheme"], seed, rate_target)
    if policy == "fixed":
        calibrations = {"all": _fixed(costs, exit_block)}
    else:
        calibrations = _calibrations(results / "evaluation" / backbone / variant, config, policy, rate_target, seed)
    keys = {"backbone": backbone, "variant": variant, "policy": policy, "seed": str(seed)}
    training = config["training"]["dataset"]
    early = EarlyExit(
        policy=policy,
        rate_target=rate_target,
        costs=costs,
        heads=load_module(exits / heads, loaded.weights_digest),
        gates=load_module(exits / gates, loaded.weights_digest) if gates else None,
        calibrations=calibrations,
        about={"name": backbone, "variant": variant, "seed": seed, "trained_on": training}
        | {"results": _results(results, keys, training, rate_target, exit_block)},
    )
    return EarlyExitCLIP(loaded, early, **options)


def _chosen(
    config: dict, backbone: str, policy: str, rate_target: float | None, variant: str | None, seed: int | None
) -> tuple[str, int]:
    """Variant and seed, where nothing else was said; all must be the run's."""
    if variant is None and len(config["variants"]) == 1:
        variant = next(iter(config["variants"]))
    seed = config["seeds"][0] if seed is None else seed
    _known("backbone", backbone, config["backbones"])
    _known("variant", variant, config["variants"])
    _known("policy", policy, [p for p in config["policies"] if p in POLICIES])
    _known("seed", seed, config["seeds"])
    if policy != "fixed":
        _known("rate target", rate_target, config["variants"][variant]["rate_targets"])
    return variant, seed


def _module_folders(policy: str, scheme: str, seed: int, rate_target: float | None) -> tuple[str, str | None]:
    """Folders of a policy's heads and gates; the latter None where it has none."""
    guidance = {"tgem": "image", "tgem_bank": "bank"}.get(policy)
    if scheme == "joint" and guidance:
        folder = joint_folder(guidance, seed, rate_target)
        return f"{folder}/heads", f"{folder}/gates"
    gates = {"tgem_bank": f"bank/seed-{seed}", "learned_confidence": f"confidence/seed-{seed}"}.get(policy)
    return f"heads/seed-{seed}", image_gates_folder(seed, rate_target) if policy == "tgem" else gates


def _fixed(costs: ExitCosts, exit_block: int | None) -> Calibration:
    """Everybody leaves after one block."""
    _known("exit block", exit_block, costs.blocks[:-1])
    exit_ = costs.blocks.index(exit_block)
    return Calibration(None, (exit_,), float(costs.fixed()[exit_]))


def _calibrations(folder: Path, config: dict, policy: str, rate_target: float, seed: int) -> dict[str, Calibration]:
    """Thresholds by data set, the training domain's first: these hold where nothing else is known."""
    training = config["training"]["dataset"]
    names = [training, *(d for d in config["datasets"] if d != training and (folder / d / "thresholds.json").is_file())]
    found = {}
    for name in names:
        for fit in read_json(folder / name / "thresholds.json")["thresholds"]:
            point = fit["point"]
            same = point["rate_target"] is not None and math.isclose(point["rate_target"], rate_target)
            if fit["policy"] == policy and fit["seed"] == seed and same and fit["score_normalisation"] == "none":
                visited = None if point["visited"] is None else tuple(point["visited"])
                found[name] = Calibration(tuple(point["thresholds"]), visited, fit["rate_validation"])
    if training not in found:
        raise UserError(
            f"{folder / training / 'thresholds.json'}: holds none of {policy} at {rate_target}; run it again"
        )
    return found


def _results(
    results: Path, keys: dict[str, str], training: str, rate_target: float | None, exit_block: int | None
) -> list[dict]:
    """Headline metrics on test images beside the full encoder's, for each data set and whose thresholds were used.

    Args:
        results: Results folder.
        keys: Columns of tradeoff.csv that must agree.
        training: Data set whose thresholds are the transferred ones.
        rate_target: None for a fixed exit.
        exit_block: Of a fixed exit.
    """
    path = results / "tables/tradeoff.csv"
    points = read_table(path, COLUMNS, FINISHED, NUMBERS, dtype={"seed": "string"}, low_memory=False)
    points = points[points["metric"].isin(HEADLINE) & points["twin_of"].isna()]
    points = points[points["score_normalisation"].eq("none")]
    points = points[points["backbone"].eq(keys["backbone"]) & points["variant"].eq(keys["variant"])]
    full = points[points["policy"].eq("full")].set_index(["dataset", "metric"])["value"].to_dict()
    own = points[points["policy"].eq(keys["policy"]) & points["seed"].eq(keys["seed"])]
    if rate_target is None:
        own = own[own["exit_block"].eq(exit_block)].assign(by="all")
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


def _known(what: str, value, known) -> None:
    if value not in known:
        raise UserError(f"{what} {value!r} is not in this run; it has {', '.join(map(str, known))}")
