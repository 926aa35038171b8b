"""Run the evaluation: read features, modules and costs; write thresholds, or the tables of one test split."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from tgems.config.run import QueryBankOptions
from tgems.costs.exit_costs import ExitCosts
from tgems.costs.saved_costs import read_costs
from tgems.data.webdataset import SplitFiles
from tgems.evaluation.contributions import contributions
from tgems.evaluation.curves import Curves, as_frame, curves_of, from_frame
from tgems.evaluation.drift import drift
from tgems.evaluation.estimates import Point, points_of
from tgems.evaluation.gallery import gallery, pick_row
from tgems.evaluation.online import online_rows
from tgems.evaluation.operating_points import Row, endpoint_rows, exit_shares, policy_rows
from tgems.evaluation.outcomes import images_of, mean_outcomes, outcomes, realisable
from tgems.evaluation.paths import as_json as paths_as_json
from tgems.evaluation.paths import fit_paths, read_paths
from tgems.evaluation.query_bank import QueryBank, candidates, choose_query_bank, draw_captions
from tgems.evaluation.record import evaluation_record
from tgems.evaluation.risk import risk
from tgems.evaluation.semantic_content import semantic_content
from tgems.evaluation.split import Split, Trained
from tgems.evaluation.thresholds import SavedThresholds, as_json, fit_policies, read_thresholds, usable
from tgems.evaluation.tradeoff import tradeoff
from tgems.evaluation.uncertainty import SharedSources
from tgems.evaluation.wins import areas, of_other_domain, wins
from tgems.exits.module_folders import joint_guidance
from tgems.features.cache import IN_MEMORY_GB, SCHEMA_VERSION, FeatureSet, load_captions, load_features
from tgems.outputs import whole_file, write_json
from tgems.policies.interface import Policy, require_index_safe
from tgems.policies.registry import find_policies


def run_thresholds(
    validation: Path | str,
    macs: Path | str,
    captions: list[Path | str],
    out: dict[str, Path | str],
    trained: Trained,
    policies: list[str],
    directions: list[str],
    query_bank: QueryBankOptions | None,
    in_memory_gb: float = IN_MEMORY_GB,
) -> None:
    """Fit all policies on validation features, for every seed and target; write thresholds and validation curves.

    Args:
        validation: Features of the validation split.
        macs: `macs.json`.
        captions: Training features, whose captions make the query bank; empty without a query bank.
        out: Files `thresholds`, `curves` and `settings` to write; also `paths`, if quality is to be promised.
        trained: Folders of the trained modules.
        policies: Policies, as in the configuration.
        directions: Directions of retrieval to report.
        query_bank: Sizes and weights to choose from; None without a query bank.
        in_memory_gb: See `load_features`.
    """
    costs = read_costs(Path(macs))
    features = load_features(Path(validation), in_memory_gb=in_memory_gb).at_exits(costs.blocks, costs.summary_dim)
    chosen = usable(find_policies(policies), costs)
    if features.captions is not None and directions == ["text_to_image"]:
        for policy in chosen.values():
            require_index_safe(policy)
    plain = list(splits(features, costs, trained, chosen))
    bank = None
    if captions and query_bank is not None and "text_to_image" in directions:
        bank = _chosen_bank(plain[1], _bank_captions(captions[0], features), trained.rate_targets, query_bank)
    fitted, rows = [], []
    for split in with_normalised(plain, bank):
        own = fit_policies(split, chosen, trained.rate_targets)
        fitted += own
        rows += policy_rows(split, chosen, own, "in_domain", shuffle=False)
        rows += endpoint_rows(split)
    points = points_of(rows)
    write_json(Path(out["thresholds"]), as_json(fitted, features.manifest, bank and bank.about))
    _write(as_frame(curves_of(points, features, chosen, costs)), out["curves"])
    _write(_reported(mean_outcomes(realisable(points, chosen, "in_domain"), features), directions), out["settings"])
    if "paths" in out:
        paths = [path for split in plain for path in fit_paths(split, chosen, trained.rate_targets)]
        write_json(Path(out["paths"]), paths_as_json(len(plain[0].outputs), paths))


def run_evaluation(
    test: Path | str,
    images: Path | str,
    thresholds: dict[str, Path | str],
    curves: Path | str,
    macs: Path | str,
    captions: list[Path | str],
    out: dict[str, Path | str],
    about: dict,
    trained: Trained,
    policies: list[str],
    directions: list[str],
    in_memory_gb: float = IN_MEMORY_GB,
    paths: Path | str | None = None,
    risk_targets: Sequence[float] = (),
) -> None:
    """Apply frozen thresholds to test features and write the tables of one test split.

    Args:
        test: Features of the test split.
        images: Folder of its shards, or their receipt, for the gallery.
        thresholds: `thresholds.json` by calibration. The first gives all rows, the others only rows with a rate target;
            `online` is the start of thresholds that move.
        curves: Validation curves of the data set on which the first thresholds were fitted, for picking competitors.
        macs: `macs.json`.
        captions: Training features, whose captions make the query bank; empty without a query bank.
        out: Files to write, by table; `risk` only if quality is promised.
        about: Columns common to all tables: backbone, variant, dataset, task.
        trained: Folders of the trained modules.
        policies: Policies, as in the configuration.
        directions: Directions of retrieval to report.
        in_memory_gb: See `load_features`.
        paths: `paths.json` of the data set's own validation images; None if it has none.
        risk_targets: Shares of images that may lose the full encoder's best text.
    """
    costs = read_costs(Path(macs))
    fixed = {calibration: read_thresholds(Path(path), costs) for calibration, path in thresholds.items()}
    record, moving = dict(fixed), fixed.pop("online", None)
    first = next(iter(fixed))
    like = {"schema_version": SCHEMA_VERSION, "weights": fixed[first].weights, "preprocess": fixed[first].preprocess}
    features = load_features(Path(test), like, in_memory_gb).at_exits(costs.blocks, costs.summary_dim)
    chosen = find_policies(policies)
    plain = list(splits(features, costs, trained, chosen))
    banks = _fixed_banks(captions[0], features, fixed) if captions and "text_to_image" in directions else {}
    rows: list[Row] = []
    online: list[Row] = []
    for split in plain:
        online += online_rows(split, chosen, moving.thresholds) if moving else []
        for calibration, saved in fixed.items():
            own = [f for f in saved.thresholds if calibration == first or f.point.rate_target is not None]
            for seen in with_normalised([split], banks.get(calibration)):
                rows += policy_rows(seen, chosen, own, calibration, "shuffled" in policies)
                rows += endpoint_rows(seen) if calibration == first else []
    shared = [split for split in plain if split.policies is None]
    points, sources = points_of(rows), SharedSources(features.sources)
    every = [*points, *points_of(online)]  # curves and comparisons are of frozen thresholds
    own = curves_of(points, features, chosen, costs)
    normalised = _normalised_curves(points, features, chosen, costs, banks.get(first))
    validation = from_frame(pd.read_parquet(curves))
    before = validation if first == "in_domain" else {}
    names = {k: about[k] for k in ("backbone", "variant", "dataset")}
    shown = gallery(pick_row(rows, first, chosen), features, costs.blocks, SplitFiles.of(Path(images), about["task"]))
    under = [
        areas(found, seen, sources, names).assign(score_normalisation=label)
        for label, found, seen in (("none", own, before), ("querybank", normalised, {}))
    ]
    steps = contributions(own, normalised, before, chosen, points, features, trained.rate_targets, names)
    parts = {
        "tradeoff": _reported(tradeoff(every, features, costs, about), directions),
        "wins": _reported(wins(own, before or of_other_domain(validation, own), chosen, sources, names), directions),
        "areas": _reported(pd.concat(under, ignore_index=True), directions),
        "contributions": _reported(steps, directions),
        "exits": exit_shares([*rows, *online], costs, names),
        "drift": drift(every, chosen, features, directions, names),
        "semantic_content": semantic_content(shared[0], shared[1:], names),
        "gallery": shown.assign(**names),
        "outcomes": _reported(outcomes(realisable(points, chosen, first)), directions),
        "image_sources": images_of(features),
    }
    if "risk" in out:
        saved = None if paths is None else read_paths(Path(paths), costs)
        parts["risk"] = risk(plain, saved, chosen, risk_targets, names)
    for name, frame in parts.items():
        _write(frame, out[name])
    write_json(Path(out["provenance"]), evaluation_record(features, record, trained))


def splits(features: FeatureSet, costs: ExitCosts, trained: Trained, policies: dict[str, Policy]) -> Iterator[Split]:
    """Yield the split with the frozen projection, and then with the modules of each seed.

    Heads and gates that were trained together have a split of their own for each guidance and rate target. The policy
    `random` draws from the exits of a T-GEM, so it is evaluated with the modules of that T-GEM.
    """
    weights, owners = features.manifest["weights"], {}
    if trained.scheme == "joint":
        owners = {
            kind: tuple(name for name, policy in policies.items() if policy.gates == kind)
            for kind in joint_guidance(trained.gates)
        }
        owners = {kind: (*names, "random") if kind == next(iter(owners)) else names for kind, names in owners.items()}
    elsewhere = tuple(name for names in owners.values() for name in names)
    yield Split(features, costs)
    for seed in trained.seeds:
        yield Split(features, costs, trained.shared(seed, weights), seed, elsewhere=elsewhere)
        for guidance, names in owners.items():
            for rate in trained.rate_targets:
                modules = trained.joint(guidance, seed, rate, weights)
                yield Split(features, costs, modules, seed, policies=names, rate_target=rate)


def with_normalised(plain: list[Split], bank: QueryBank | None) -> Iterator[Split]:
    """Yield every split, and if there is a query bank, also a copy of it with normalised scores."""
    for split in plain:
        yield split
        if bank is not None:
            yield split.normalised(bank)


def _bank_captions(training: Path | str, features: FeatureSet) -> Tensor:
    """Draw training captions in random order, without those of the split that is scored."""
    texts, captions = load_captions(Path(training), features.manifest["weights"])
    own = [] if features.captions is None else features.captions["caption"]
    return draw_captions(texts, captions, set(own))


def _chosen_bank(split: Split, texts: Tensor, rate_targets: list[float], options: QueryBankOptions) -> QueryBank:
    """Choose size and beta with the heads of the first seed; all seeds and policies use them."""
    scale, rates = split.features.manifest["logit_scale"], torch.from_numpy(split.costs.fixed())
    found = list(candidates(texts, options.sizes, options.betas, scale))
    truth, owners = split.truth, split.features.text_image
    return choose_query_bank(split.embeddings, truth.texts, owners, rates, split.costs.full, found, rate_targets)


def _fixed_banks(training: Path | str, features: FeatureSet, fixed: dict[str, SavedThresholds]) -> dict[str, QueryBank]:
    """Build the query bank of each calibration, whose size and beta were chosen together with its thresholds."""
    texts, scale = _bank_captions(training, features), features.manifest["logit_scale"]
    kept = {calibration: value.query_bank for calibration, value in fixed.items() if value.query_bank}
    return {c: QueryBank(texts[: b.query_bank_size], b.query_bank_beta, scale) for c, b in kept.items()}


def _normalised_curves(
    points: list[Point],
    features: FeatureSet,
    policies: dict[str, Policy],
    costs: ExitCosts,
    bank: QueryBank | None,
) -> Curves:
    """Return the curves of normalised scores; none without a query bank."""
    if bank is None:
        return {}
    return curves_of(points, features, policies, replace(costs, query_bank=bank.macs), "querybank")


def _reported(frame: pd.DataFrame, directions: list[str]) -> pd.DataFrame:
    return frame if frame.empty else frame[frame["direction"].isin(["classification", *directions])]


def _write(frame: pd.DataFrame, path: Path | str) -> None:
    frame = frame.astype({"seed": "string"}) if "seed" in frame else frame
    with whole_file(Path(path)) as partial:
        frame.to_parquet(partial)
