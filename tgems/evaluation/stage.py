"""The evaluation stage: read features, modules and costs; write thresholds, or tidy tables of one test split."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tgems.data.webdataset import SplitFiles
from tgems.evaluation.estimates import Estimates, tradeoff
from tgems.evaluation.gallery import gallery, pick_row
from tgems.evaluation.inputs import Split, load_modules
from tgems.evaluation.precision import precision_change
from tgems.evaluation.rows import endpoint_rows, exit_shares, mean_over_seeds, policy_rows
from tgems.evaluation.semantic_content import semantic_content
from tgems.evaluation.thresholds import as_json, fit_policies, from_json, usable
from tgems.evaluation.wins import areas, as_frame, curves_of, from_frame, of_other_domain, wins
from tgems.exits.names import module_folders
from tgems.exits.policies import require_index_safe
from tgems.exits.registry import find_policies
from tgems.features.cache import COMPARED, SCHEMA_VERSION, FeatureSet, load_features
from tgems.profiling.costs import ExitCosts, read_costs
from tgems.provenance import commit, read_json, versions, whole_file, write_json

VALIDATION_PERMUTATIONS = 5


def run_thresholds(
    validation: str,
    macs: str,
    out: dict[str, str],
    exits: str,
    seeds: list[int],
    rate_targets: list[float],
    policies: list[str],
    gates: list[str],
    directions: list[str],
) -> None:
    """Fit every policy, seed and target on validation features: `thresholds.json`, and the curves they give there."""
    costs = read_costs(macs)
    features = load_features(validation).at_exits(costs.blocks, costs.summary_dim)
    chosen = usable(find_policies(policies), costs)
    if features.captions is not None and directions == ["text_to_image"]:
        for policy in chosen.values():
            require_index_safe(policy)
    fitted, rows = [], []
    for split in splits(features, costs, exits, seeds, rate_targets, gates):
        own = fit_policies(split, chosen, rate_targets)
        fitted += own
        rows += policy_rows(split, chosen, own, "in_domain", "shuffled" in policies, VALIDATION_PERMUTATIONS)
        rows += endpoint_rows(split)
    curves = curves_of(Estimates([*rows, *mean_over_seeds(rows)], features, 0), chosen, costs, len(features.texts))
    write_json(out["thresholds"], as_json(fitted, features.manifest))
    _write(as_frame(curves), out["curves"])


def run_evaluation(
    test: str,
    images: str,
    thresholds: dict[str, str],
    curves: str,
    macs: str,
    out: dict[str, str],
    about: dict,
    exits: str,
    seeds: list[int],
    rate_targets: list[float],
    policies: list[str],
    gates: list[str],
    directions: list[str],
    bootstrap_resamples: int,
) -> None:
    """Apply frozen thresholds to test features and write the tidy parts in `out`.

    Args:
        test: Features of the test split.
        images: Folder of its shards, or their receipt, for the gallery.
        thresholds: `thresholds.json` by calibration; the first emits all rows, others the calibrated ones.
        curves: Validation curves of the data set that the first thresholds are of, for picking competitors.
        macs: `macs.json`.
        out: Files by part.
        about: Columns common to everything: backbone, variant, dataset, task.
        exits: Folder of the trained modules.
        seeds: Seeds.
        rate_targets: Rate targets.
        policies: Words of the configuration.
        gates: Gates that were trained.
        directions: Ways of retrieval to report.
        bootstrap_resamples: Resamples.
    """
    fixed = {calibration: read_json(path) for calibration, path in thresholds.items()}
    first = next(iter(fixed))
    like = {"schema_version": SCHEMA_VERSION} | {k: v for k, v in fixed[first].items() if k in COMPARED}
    costs = read_costs(macs)
    features = load_features(test, like).at_exits(costs.blocks, costs.summary_dim)
    chosen = find_policies(policies)
    fitted = {calibration: from_json(value) for calibration, value in fixed.items()}
    rows, seen = [], []
    for split in splits(features, costs, exits, seeds, rate_targets, gates):
        seen.append(split)
        for calibration, points in fitted.items():
            own = [f for f in points if f.seed == split.seed]
            if calibration != first:
                own = [f for f in own if f.point.rate_target is not None]
            rows += policy_rows(split, chosen, own, calibration, "shuffled" in policies)
        rows += endpoint_rows(split)
    estimates = Estimates([*rows, *mean_over_seeds(rows)], features, bootstrap_resamples)
    own = curves_of(estimates, chosen, costs, len(features.texts))
    validation = from_frame(pd.read_parquet(curves))
    picked_on, before = (validation, validation) if first == "in_domain" else (of_other_domain(validation, own), {})
    names = {k: about[k] for k in ("backbone", "variant", "dataset")}
    shown = gallery(pick_row(rows, first), features.samples, costs.blocks, SplitFiles.of(images))
    parts = {
        "tradeoff": _reported(tradeoff(estimates, costs, about), directions),
        "wins": _reported(wins(own, picked_on, names), directions),
        "areas": _reported(areas(own, before, names), directions),
        "exits": exit_shares(rows, costs, names),
        "semantic_content": semantic_content(seen[0], seen[1:], names, bootstrap_resamples),
        "gallery": shown.assign(**names),
    }
    for name, frame in parts.items():
        _write(frame, out[name])
    write_json(out["provenance"], _provenance(features, fixed, exits, seeds, rate_targets, gates))


def splits(
    features: FeatureSet, costs: ExitCosts, exits: str, seeds: list[int], rate_targets: list[float], gates: list[str]
) -> Iterator[Split]:
    """The backbone alone first, then the modules of each seed."""
    yield Split(features, costs)
    for seed in seeds:
        modules = load_modules(Path(exits), seed, rate_targets, gates, features.manifest["weights"])
        yield Split(features, costs, modules, seed)


def _reported(frame: pd.DataFrame, directions: list[str]) -> pd.DataFrame:
    return frame if frame.empty else frame[frame["direction"].isin(["classification", *directions])]


def _provenance(features: FeatureSet, fixed: dict, exits: str, seeds, rate_targets, gates) -> dict:
    modules = [f for seed in seeds for f in module_folders(seed, rate_targets, gates)]
    return {
        "weights": features.manifest["weights"],
        "test": {key: features.manifest[key] for key in ("n", "shards", "prompts", "skipped")},
        "precision": precision_change(features),
        "validation": {calibration: value["validation"] for calibration, value in fixed.items()},
        "modules": {m: read_json(Path(exits, m, "config.json"))["model_digest"] for m in modules},
        "recorded": {"versions": versions(), "commit": commit()},
    }


def _write(frame: pd.DataFrame, path: str) -> None:
    frame = frame.astype({"seed": "string"}) if "seed" in frame else frame
    with whole_file(path) as partial:
        frame.to_parquet(partial)
