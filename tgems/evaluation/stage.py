"""The evaluation stage: read features, modules and costs; write thresholds, or tidy tables of one test split."""

from pathlib import Path

import pandas as pd

from tgems.evaluation import evaluate, rows, thresholds
from tgems.evaluation.gallery import gallery, pick_row
from tgems.evaluation.inputs import load_modules, module_folders, outputs_of
from tgems.features.cache import load_features
from tgems.profiling.costs import read_costs
from tgems.provenance import commit, read_json, versions, write_json


def run_thresholds(
    validation: str,
    macs: str,
    out: str,
    exits: str,
    seeds: list[int],
    rate_targets: list[float],
    policies: list[str],
    guidance: list[str],
) -> None:
    """Fit every policy, seed and target on validation features and write `thresholds.json`."""
    features, costs = load_features(validation), read_costs(macs)
    fitted, hulls = [], []
    for seed in seeds:
        modules = load_modules(exits, seed, rate_targets, guidance, features.manifest["weights"])
        more = thresholds.fit_seed(features, modules, costs, seed, policies, rate_targets)
        fitted, hulls = fitted + more[0], hulls + more[1]
    write_json(out, thresholds.as_json(fitted, hulls, features.manifest))


def run_evaluation(
    test: str,
    images: str,
    thresholds_file: str,
    macs: str,
    out: dict[str, str],
    about: dict,
    exits: str,
    seeds: list[int],
    rate_targets: list[float],
    policies: list[str],
    guidance: list[str],
    task: str,
    bootstrap_resamples: int,
) -> None:
    """Apply frozen thresholds to test features and write the tidy parts in `out`; `images` is the split's folder."""
    fixed = read_json(thresholds_file)
    features = load_features(test, like={"schema_version": 1, "weights": fixed["weights"]} | _preprocess(test))
    costs = read_costs(macs)
    fitted, hulls = thresholds.from_json(fixed)
    table = list(rows.unseeded_rows(features, costs, policies))
    embeddings = []
    for seed in seeds:
        modules = load_modules(exits, seed, rate_targets, guidance, features.manifest["weights"])
        outputs = outputs_of(features, modules, costs)
        embeddings.append(outputs.embeddings)
        table += rows.seed_rows(features, outputs, seed, policies, fitted, hulls)
    parts = {
        "tradeoff": evaluate.tradeoff(table, features, costs, about | {"task": task}, bootstrap_resamples),
        "exits": evaluate.exit_shares(table, costs, about),
        "semantic_content": evaluate.semantic_content(features, embeddings, costs, about, bootstrap_resamples),
    }
    shown = gallery(pick_row(table), features.samples["key"].tolist(), costs.blocks, Path(images))
    parts["gallery"] = shown.assign(**about)
    modules = [f for seed in seeds for f in module_folders(seed, rate_targets, guidance).values()]
    provenance = {
        "weights": fixed["weights"],
        "test": {key: features.manifest[key] for key in ("n", "shards", "prompts")},
        "validation": fixed["validation"],
        "modules": {m: read_json(Path(exits, m, "config.json"))["model_digest"] for m in modules},
        "recorded": {"versions": versions(), "commit": commit()},
    }
    write_json(out["provenance"], provenance)
    for name, frame in parts.items():
        _write(frame, out[name])


def _preprocess(test: str) -> dict:
    return {"preprocess": read_json(f"{test}/manifest.json")["preprocess"]}


def _write(frame: pd.DataFrame, path: str) -> None:
    import os

    frame = frame.astype({"seed": "string"}) if "seed" in frame else frame
    frame.to_parquet(f"{path}.partial")
    os.replace(f"{path}.partial", path)
