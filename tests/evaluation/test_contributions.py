import pytest

from tgems.evaluation.contributions import STEPS, contributions
from tgems.policies.registry import POLICIES
from tgems.reporting.contributions import STEPS as LABELS


@pytest.fixture
def table(evaluated):
    curves = evaluated.curves
    points, features = evaluated.points, evaluated.features
    return contributions(curves, {}, curves, POLICIES, points, features, [0.5, 0.7], {"dataset": "x"})


def test_every_step_has_a_label_in_figures():
    assert list(LABELS) == list(STEPS)


def test_gains_are_relative_to_the_step_below_at_the_same_rate(table):
    steps = table[table["step"].isin(STEPS)]
    assert set(steps["rate"]) == {0.5, 0.7} and set(steps["step"]) == set(STEPS) - {"score_normalisation"}
    for row in steps.dropna(subset=["over"]).to_dict("records"):
        same = steps["metric"].eq(row["metric"]) & steps["rate"].eq(row["rate"]) & steps["step"].eq(row["over"])
        assert row["gain"] == pytest.approx(row["value"] - steps[same]["value"].iloc[0])
        assert row["gain_ci_low"] <= row["gain"] <= row["gain_ci_high"]


def test_the_best_rule_is_at_least_as_good_as_a_fixed_exit_on_the_images_it_is_picked_on(table):
    """The rules include the hull of fixed exits."""
    values = table[table["step"].isin(STEPS)].pivot(index=["metric", "rate"], columns="step", values="value")
    assert (values["frozen_confidence"] >= values["frozen_fixed"] - 1e-9).all()
    assert (values["heads_confidence"] >= values["heads_fixed"] - 1e-9).all()


def test_text_to_image_steps_pick_only_index_safe_policies(table):
    safe = table[table["direction"] == "text_to_image"]
    assert not safe["policy"].isin(["margin", "max_softmax", "margin_raw", "max_softmax_raw", "tgem_bank"]).any()


def test_full_encoder_and_oracle_are_those_of_the_tradeoff_table(evaluated, table):
    points = evaluated.table[evaluated.table["metric"].eq(evaluated.metric) & ~evaluated.table["seed"].isin([0, 1])]
    steps = table[table["metric"].eq(evaluated.metric)]
    for step in ("full", "oracle"):
        own, row = points[points["policy"].eq(step)].iloc[0], steps[steps["step"].eq(step)].iloc[0]
        assert row[["value", "rate"]].tolist() == pytest.approx(own[["value", "rate"]].tolist())
