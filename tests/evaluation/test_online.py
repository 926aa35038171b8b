"""Streams that hold their rates, and the table of their drift, against loops over single images."""

import numpy as np
import pandas as pd
import pytest

from tgems.evaluation import drift as drift_module
from tgems.evaluation.estimates import points_of
from tgems.evaluation.online import online_rows, stream_order
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.online import HeldRate, moved_thresholds
from tgems.policies.registry import POLICIES

ABOUT = {"backbone": "demo", "variant": "default", "dataset": "x"}
THRESHOLD_POLICIES = {name for name, policy in POLICIES.items() if isinstance(policy, ThresholdPolicy)}


@pytest.fixture(scope="module")
def online(evaluated):
    """Rows of each split of `evaluated`, in the order of its splits."""
    pairs = zip(evaluated.splits, evaluated.fitted, strict=True)
    return [list(online_rows(split, POLICIES, fitted)) for split, fitted in pairs]


def test_every_stream_is_a_loop_over_images(evaluated, online):
    checked = 0
    for split, fitted, rows in zip(evaluated.splits, evaluated.fitted, online, strict=True):
        fits = {(f.policy, f.point.rate_target): f for f in fitted}
        for row in rows:
            fit = fits[row.about["policy"], row.about["rate_target"]]
            policy = POLICIES[fit.policy]
            prices = policy.costs(split.costs, len(split.outputs.bank), fit.point.visited)
            scores, start = policy.scores(split.outputs, fit.point.rate_target), fit.point.at_exits(7)
            state, exits = HeldRate.start(fit.point.rate_target), {}
            for image in stream_order(len(scores), split.seed).tolist():
                thresholds = moved_thresholds(start.numpy(), fit.spread, state.offset)
                exits[image] = next((k for k in range(7) if scores[image, k] > thresholds[k]), 7)
                state = state.after(prices[[exits[image]]])
            assert row.exits.tolist() == [exits[image] for image in range(len(scores))]
            assert row.rates.mean() == pytest.approx(float(state.rate))
            checked += 1
    assert checked > 30


def test_only_policies_with_thresholds_have_streams(evaluated, online):
    assert {row.about["policy"] for rows in online for row in rows} == THRESHOLD_POLICIES
    for rows in online:
        assert {row.about["calibration"] for row in rows} == {"online"}
        assert not any("threshold" in row.about or "twin_of" in row.about for row in rows)
    hits = {name for rows in online for row in rows for name in row.hits if row.about["policy"] == "margin"}
    assert evaluated.metric in hits and not any(name.startswith("image_retrieval") for name in hits)


def test_each_seed_has_another_order():
    orders = [stream_order(70, seed).tolist() for seed in (0, 1, 2)]
    assert all(sorted(order) == list(range(70)) for order in orders) and orders[0] != orders[1] != orders[2]
    assert stream_order(70, None).tolist() == orders[0], "the frozen projection has one stream"


def test_drift_is_the_mean_of_the_images_so_far(evaluated, online, monkeypatch):
    monkeypatch.setattr(drift_module, "SEEN", (10, 30, 70, 100))
    points = points_of([*evaluated.rows, *(row for rows in online for row in rows)])
    table = drift_module.drift(points, POLICIES, evaluated.features, ["image_to_text"], ABOUT)
    assert set(table["images"]) == {10, 30, 70} and set(table["calibration"]) == {"in_domain", "online"}
    assert set(table["policy"]) == THRESHOLD_POLICIES
    assert set(table["direction"].dropna()) <= {"classification", "image_to_text"}
    for row in (r for rows in online for r in rows):
        seed = row.about.get("seed")
        own = table[table["policy"].eq(row.about["policy"]) & table["rate_target"].eq(row.about["rate_target"])]
        own = own[own["calibration"].eq("online") & (own["seed"].isna() if seed is None else own["seed"].eq(str(seed)))]
        order = stream_order(70, seed)
        for record in own.to_dict("records"):
            expected = sum(row.rates[i] for i in order[: record["images"]]) / record["images"]
            assert record["rate"] == pytest.approx(expected)
            assert record["excess"] == pytest.approx(expected - record["rate_target"])
        assert own["images"].tolist() == [10, 30, 70]


def test_accuracy_is_compared_with_in_domain_thresholds_on_the_same_images(evaluated, online):
    points = points_of([*evaluated.rows, *(row for rows in online for row in rows)])
    table = drift_module.drift(points, POLICIES, evaluated.features, ["image_to_text"], ABOUT)
    compared = table[table["metric"].eq(evaluated.metric)]
    assert set(compared["calibration"]) == {"online"} and set(compared["images"]) == {70}
    rows = {(r.about["policy"], r.about["rate_target"], r.about.get("seed")): r for rows in online for r in rows}
    frozen = {
        (r.about["policy"], r.about["rate_target"], r.about.get("seed")): r
        for r in evaluated.rows
        if r.about.get("rate_target") is not None
    }
    single = compared[compared["seed"].ne("mean")]
    assert len(single) == len(rows)
    for record in single.to_dict("records"):
        key = record["policy"], record["rate_target"], None if pd.isna(record["seed"]) else int(record["seed"])
        difference = rows[key].hits[evaluated.metric] - frozen[key].hits[evaluated.metric]
        assert record["delta_in_domain"] == pytest.approx(np.mean(difference))
        assert record["delta_in_domain_ci_low"] <= record["delta_in_domain"] <= record["delta_in_domain_ci_high"]
    means = compared[compared["seed"].eq("mean")]
    assert means["delta_in_domain_method_ci_low"].notna().all() and len(means) == (len(rows) - len(online[0])) / 2


def test_without_thresholds_there_is_no_drift(evaluated):
    points = [p for p in evaluated.points if p.about["policy"] == "fixed"]
    table = drift_module.drift(points, POLICIES, evaluated.features, ["image_to_text"], {})
    assert table.empty and list(table) == drift_module.COLUMNS
