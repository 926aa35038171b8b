"""Tabulate all operating points of one test split, with intervals and paired differences."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from tgems.costs.exit_costs import ExitCosts
from tgems.evaluation.estimates import Point, direction_of, measure, metrics_of
from tgems.evaluation.uncertainty import Estimate, SharedSources, intervals
from tgems.features.cache import FeatureSet

COLUMNS = [
    *("backbone", "dataset", "task", "direction", "policy", "twin_of", "variant", "guidance", "calibration"),
    *("score_normalisation", "query_bank_size", "query_bank_beta", "gmacs_query_bank"),
    *("index_safe", "bank_size", "rate_target", "exit_block", "seed", "threshold", "rate_validation", "rate"),
    *("rate_ci_low", "rate_ci_high", "gmacs", "gmacs_answer", "metric", "value", "ci_low", "ci_high"),
    *("method_ci_low", "method_ci_high", "value_std"),
    *("delta_full", "delta_full_ci_low", "delta_full_ci_high", "delta_full_method_ci_low", "delta_full_method_ci_high"),
    *("delta_shuffled", "delta_shuffled_ci_low", "delta_shuffled_ci_high"),
    *("delta_shuffled_method_ci_low", "delta_shuffled_method_ci_high", "n", "n_sources"),
]


def tradeoff(points: list[Point], features: FeatureSet, costs: ExitCosts, about: dict) -> pd.DataFrame:
    """Tabulate every point and metric: a row per seed, and a row for their mean with both intervals.

    Args:
        points: Operating points; the ends of curves are left out.
        features: Features of the split.
        costs: Costs of the exits, for columns in GMACs.
        about: Columns common to all rows: backbone, variant, dataset, task.
    """
    sources = SharedSources(features.sources)
    shown = [point for point in points if not point.about["policy"].startswith("endpoint")]
    frames = [frame for metric in metrics_of(shown) for frame in _frames(shown, metric, features, sources)]
    table = pd.concat(frames, ignore_index=True).assign(**about, n=sources.n, n_sources=sources.n_sources)
    table["gmacs"] = table["rate"] * costs.full / 1e9
    table["gmacs_answer"] = costs.answer(len(features.texts)) / 1e9
    table["gmacs_query_bank"] = table.get("query_bank_size", np.nan) * costs.embed_dim / 1e9
    return table.reindex(columns=COLUMNS)


def _frames(points: list[Point], metric: str, features: FeatureSet, sources: SharedSources) -> Iterator[pd.DataFrame]:
    """Yield the rows of one metric, for points without seeds and for points with them."""
    name = "acc1" if metric == "mean_per_class_recall" else metric
    having = [point for point in points if name in point.rows[0].hits]
    full = {p.about["score_normalisation"]: p for p in having if p.about["policy"] == "full"}
    twins = {_key(p, "twin_of"): p for p in having if p.about["policy"] == "shuffled"}
    for seeds in dict.fromkeys(tuple(p.seeds) for p in having):
        own = [p for p in having if tuple(p.seeds) == seeds]
        values, rates = measure(own, metric, features), _rates(own)
        partners = {"full": [full.get(p.about["score_normalisation"]) for p in own]}
        partners["shuffled"] = [twins.get(_key(p, "policy")) for p in own]
        deltas = {}
        for label, partner in partners.items():
            paired = {j: p for j, p in enumerate(partner) if p is not None}
            if paired:
                theirs = measure(list(paired.values()), metric, features)
                deltas[label] = (list(paired), _at(values, list(paired)) - theirs)
        for s in range(len(seeds)):
            yield _frame(own, metric, s, values, rates, deltas, sources)
        if seeds != (None,):
            yield _frame(own, metric, None, values, rates, deltas, sources)


def _frame(
    points: list[Point],
    metric: str,
    seed: int | None,
    values: Estimate,
    rates: Estimate,
    deltas: dict[str, tuple[list[int], Estimate]],
    sources: SharedSources,
) -> pd.DataFrame:
    """Tabulate points for one of their seeds, given by its index, or for the mean over seeds, given by None."""
    some = slice(None) if seed is None else slice(seed, seed + 1)

    def within(estimate: Estimate):
        return intervals(Estimate(estimate.values[some], estimate.influence[some], estimate.seeded), sources)

    frame = pd.DataFrame([p.about if seed is None else p.rows[seed].about for p in points])
    frame = frame.assign(metric=metric, direction=direction_of(metric))
    rate, value = within(rates), within(values)
    frame["rate"], (frame["rate_ci_low"], frame["rate_ci_high"]) = rate.value, rate.modules
    frame["value"], (frame["ci_low"], frame["ci_high"]) = value.value, np.clip(value.modules, 0, 1)
    seedless = not points[0].seeded
    if seed is None:
        validation = [np.mean([row.about.get("rate_validation", np.nan) for row in p.rows]) for p in points]
        frame = frame.assign(seed="mean", rate_validation=validation)
        frame["value_std"] = values.values.std(0, ddof=1) if len(values.values) > 1 else np.nan
    if seed is None or seedless:
        frame["method_ci_low"], frame["method_ci_high"] = np.clip(value.method, 0, 1)
    for label, (paired, delta) in deltas.items():
        found = within(delta)
        columns = {"": found.value} | dict(zip(("_ci_low", "_ci_high"), found.modules, strict=True))
        if seed is None or seedless:
            columns |= dict(zip(("_method_ci_low", "_method_ci_high"), found.method, strict=True))
        for suffix, column in columns.items():
            frame.loc[paired, f"delta_{label}{suffix}"] = column
    return frame


def _rates(points: list[Point]) -> Estimate:
    found = [p.rates for p in points]
    influence = np.stack([r.influence for r in found], -1)
    return Estimate(np.stack([r.values for r in found], -1), influence, points[0].seeded)


def _at(estimate: Estimate, columns: list[int]) -> Estimate:
    return Estimate(estimate.values[:, columns], estimate.influence[..., columns], estimate.seeded)


def _key(point: Point, key: str) -> tuple:
    return tuple(str(point.about.get(k)) for k in (key, "rate_target", "calibration", "score_normalisation"))
