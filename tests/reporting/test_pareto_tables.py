"""The tables `pareto` and `budgets` and their figure, on a made-up run of three encoders."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from tgems.evaluation.tradeoff import COLUMNS
from tgems.reporting.pareto import best_rule, log_ticks, plot
from tgems.reporting.pareto_tables import BUDGETS, pareto, write_pareto
from tgems.reporting.style import looks_of, use_style

POLICIES = ["full", "fixed", "hull", "margin", "entropy", "tgem", "tgem_bank", "shuffled", "oracle"]
CONFIG = {
    "policies": POLICIES,
    "variants": {"default": {}},
    "backbones": {"large": {"token_merging": 0}, "small": {"token_merging": 0}, "thin": {"token_merging": 2}},
}
GMACS = {"large": 8.0, "small": 4.0, "thin": 5.0}
BEST = {"large": 0.9, "small": 0.86, "thin": 0.8}
LOSS = {"fixed": 0.3, "hull": 0.28, "margin": 0.05, "entropy": 0.04, "tgem": 0.1, "tgem_bank": 0.02, "oracle": 0.0}
"""Loss of each policy at half of the cost; on validation images, entropy loses .06."""
METRICS = {"digits": ["acc1"], "scenes": ["text_retrieval_recall@1", "image_retrieval_recall@1"]}


def points() -> pd.DataFrame:
    """Rows of the table `tradeoff`, with the full encoder, one fixed exit, and a rate target of one half."""
    rows = []
    for (dataset, metrics), backbone in product(METRICS.items(), GMACS):
        for metric in metrics:
            about = {"backbone": backbone, "dataset": dataset, "metric": metric, "variant": "default"}
            about["score_normalisation"] = "none"
            best, whole = BEST[backbone], GMACS[backbone]
            rows.append(about | {"policy": "full", "exit_block": 8, "rate": 1.0, "value": best, "gmacs": whole})
            for (policy, loss), seed in product(LOSS.items(), ("0", "mean")):
                if metric.startswith("image") and policy in ("margin", "entropy", "tgem_bank", "oracle"):
                    continue
                own = about | {"policy": policy, "seed": seed, "rate": 0.51, "gmacs": 0.51 * whole}
                own |= {"exit_block": 4} if policy == "fixed" else {"rate_target": 0.5, "calibration": "in_domain"}
                rows.append(own | {"value": best - loss + 0.1 * (seed == "0")})
                if policy != "fixed":
                    rows.append(own | {"value": 1.0, "calibration": "transfer"})
                    rows.append(own | {"value": 1.0, "score_normalisation": "querybank"})
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for end, sign in (("low", -1), ("high", 1)):
        frame[f"ci_{end}"], frame[f"rate_ci_{end}"] = frame["value"] + 0.02 * sign, frame["rate"] + 0.01 * sign
    return frame


def validation() -> pd.DataFrame:
    """Mean outcomes on validation images of digits; scenes has none."""
    rows = []
    for backbone in GMACS:
        about = {"backbone": backbone, "variant": "default", "dataset": "digits", "metric": "acc1"}
        rows.append(about | {"policy": "full", "exit_block": 8, "rate": 1.0, "value": BEST[backbone] + 0.01})
        for policy, loss in (LOSS | {"entropy": 0.06}).items():
            own = {"exit_block": 4, "rate_target": np.nan} if policy == "fixed" else {"rate_target": 0.5}
            rows.append(about | own | {"policy": policy, "rate": 0.5, "value": BEST[backbone] + 0.01 - loss})
    return pd.DataFrame(rows)


def speeds() -> pd.DataFrame:
    """Rows of the table `latency`, of two encoders at two batch sizes."""
    rows = []
    for backbone, size in product(("large", "small"), (1, 8)):
        about, whole = {"backbone": backbone, "batch_size": size}, GMACS[backbone] / size
        rows += [about | {"encoder": "full", "ms_per_image": 1.2 * whole}]
        rows += [about | {"encoder": "full, in chunks", "ms_per_image": whole}]
        early = about | {"encoder": "early exit"}
        rows += [early | {"rate_target": 0.5, "policy": "tgem", "dataset": "scenes", "ms_per_image": 0.7 * whole}]
        rows += [early | {"rate_target": 0.5, "policy": "margin", "dataset": "digits", "ms_per_image": 0.8 * whole}]
        rows += [early | {"exit_block": 4, "policy": "fixed", "ms_per_image": 0.55 * whole}]
        rows += [early | {"rate_target": 0.5, "ms_per_image": 0.1 * whole}]  # exits that were drawn
    frame = pd.DataFrame(rows)
    return frame.assign(ms_per_image_ci_low=frame["ms_per_image"] - 1, ms_per_image_ci_high=frame["ms_per_image"] + 1)


@pytest.fixture
def table():
    use_style()
    return pareto(points(), validation(), speeds(), CONFIG)


def test_rows_are_the_means_of_what_can_be_run_under_own_thresholds(table):
    own = table[table["cost_kind"].eq("gmacs")]
    digits, texts = own[own["dataset"].eq("digits")], own[own["metric"].eq("image_retrieval_recall@1")]
    assert set(digits["policy"]) == {"full", "fixed", "margin", "entropy", "tgem", "tgem_bank"}
    assert set(texts["policy"]) == {"full", "fixed", "tgem"} and len(digits) == 3 * 6 and len(texts) == 3 * 3
    assert own["value"].lt(1).all() and own["batch_size"].isna().all()
    row = digits[digits["backbone"].eq("large") & digits["policy"].eq("margin")].iloc[0]
    assert row[["cost", "cost_ci_low", "cost_validation"]].tolist() == pytest.approx([0.51 * 8, 0.5 * 8, 4.0])
    assert row[["value", "value_validation", "ci_low"]].tolist() == pytest.approx([0.85, 0.86, 0.83])
    assert set(own.loc[own["backbone"].eq("thin"), "kind"].str.split(" on ").str[-1]) <= {
        "token merging",
        "merged tokens",
    }


def test_the_front_is_found_for_each_kind_of_cost_alone(table):
    digits = table[table["dataset"].eq("digits")]
    for _, own in digits.groupby(["cost_kind", "batch_size"], dropna=False):
        costs, values = own["cost"].to_numpy(), own["value"].to_numpy()
        for row in own.to_dict("records"):
            better = (costs <= row["cost"]) & (values >= row["value"])
            better &= (costs < row["cost"]) | (values > row["value"])
            assert row["non_dominated"] == (not better.any())
    assert digits[digits["cost_kind"].eq("gmacs")]["non_dominated"].sum() >= 3


def test_milliseconds_are_those_of_the_same_setting(table):
    own = table[table["cost_kind"].eq("ms")]
    assert set(own["batch_size"]) == {1, 8} and set(own["backbone"]) == {"large", "small"}
    found = {(row["dataset"], row["policy"]) for row in own.to_dict("records")}
    assert found == {(d, p) for d in METRICS for p in ("full", "fixed")} | {("scenes", "tgem"), ("digits", "margin")}
    share = {"full": 1.0, "fixed": 0.55, "tgem": 0.7, "margin": 0.8}
    for row in own.to_dict("records"):
        assert row["cost"] == pytest.approx(share[row["policy"]] * GMACS[row["backbone"]] / row["batch_size"])
    blocks = own.groupby("policy")["exit_block"].apply(lambda block: set(block.dropna()))
    assert blocks["full"] == {8} and blocks["fixed"] == {4}, "faster of two ways to run the full encoder"
    assert pareto(points(), pd.DataFrame(), pd.DataFrame(), CONFIG)["value_validation"].isna().all()


def test_both_tables_are_written_and_the_best_is_picked_on_validation(tmp_path):
    rng, rows, folders, settings = np.random.default_rng(0), points(), [], []
    for (backbone, dataset), own in rows.groupby(["backbone", "dataset"]):
        folder = tmp_path / f"evaluation/{backbone}/default/{dataset}"
        folder.mkdir(parents=True)
        own.to_parquet(folder / "tradeoff.parquet")
        kept = own[own["seed"].ne("mean")].drop_duplicates(["policy", "rate_target", "exit_block", "metric"])
        hits = [(rng.random(60) < value).astype("uint16") for value in kept["value"]]
        kept[["policy", "rate_target", "exit_block", "metric", "seed"]].assign(hits=hits).to_parquet(
            folder / "outcomes.parquet"
        )
        keys = [str(k) for k in range(60)]
        images = pd.DataFrame(
            {"key": keys, "sources": [[key] for key in keys], "captions": 0 if dataset == "digits" else 1}
        )
        images.to_parquet(folder / "image_sources.parquet")
        folders.append(str(folder / "outcomes.parquet"))
        if dataset == "digits":
            mean = validation().query("backbone == @backbone").drop(columns=["backbone", "variant", "dataset"])
            mean.to_parquet(folder / "validation_settings.parquet")
            settings.append(str(folder / "validation_settings.parquet"))
    table = write_pareto(folders, settings, [], CONFIG, tmp_path)
    assert pd.read_csv(tmp_path / "pareto.csv")["non_dominated"].tolist() == table["non_dominated"].tolist()
    found = pd.read_csv(tmp_path / "budgets.csv")
    assert (
        list(found.columns) == BUDGETS and (tmp_path / "budgets.md").is_file() and (tmp_path / "pareto.tex").is_file()
    )
    digits = found[found["dataset"].eq("digits")]
    assert set(digits["picked_on"]) == {"validation"} and set(found["picked_on"]) == {"validation", "test"}
    rules = digits[digits["budget_of"].eq("small") & digits["kind"].eq("other exit rule")]
    assert rules["policy"].tolist() == ["margin"], "entropy is better on test images, margin on validation images"
    assert digits.loc[digits["budget_of"].eq("small"), "kind"].iloc[0] == "T-GEM"
    others = found[found["place"].gt(1)]
    assert found[found["place"].eq(1)]["difference"].isna().all() and others["verdict"].notna().all()
    assert (others["difference_ci_low"] <= others["difference"]).all()


def test_the_figure_draws_each_kind_and_names_the_encoders(table):
    figure = plot(table, looks_of(POLICIES))
    assert len(figure.axes) == 3 * 3, "three metrics, over GMACs and over milliseconds at two batch sizes"
    digits = figure.axes[0]
    lines = {line.get_label(): line for line in digits.lines}
    assert {
        "full encoder",
        "token merging (r tokens per block)",
        "fixed exit, trained head",
        "T-GEM, bank-guided",
    } <= set(lines)
    assert {"best other exit rule (named)", "T-GEM, bank-guided, on merged tokens"} <= set(lines)
    assert lines["full encoder"].get_xdata() == pytest.approx([4, 8])
    assert lines["full encoder"].get_ydata() == pytest.approx([86, 90])
    texts = {text.get_text() for text in digits.texts}
    assert {"large", "small", "r = 2"} <= texts and "margin" in digits.get_title()
    times = {text.get_text() for text in figure.axes[-1].texts}
    assert "large" in times and "r = 2" not in times, "costs in time are crowded"
    assert digits.get_xlabel() == "GMACs per image" and digits.get_xscale() == "log"
    assert figure.axes[-1].get_xlabel() == "ms per image, batch of 8"
    assert all(axis.get_ylim()[1] <= 100 for axis in figure.axes)
    front = table[table["cost_kind"].eq("gmacs") & table["dataset"].eq("digits") & table["non_dominated"]]
    drawn = next(line for line in digits.lines if line.get_drawstyle() == "steps-post")
    assert drawn.get_xdata()[:-1] == pytest.approx(front["cost"].tolist())
    small = table.assign(cost=table["cost"] / 1000)
    assert plot(small, looks_of(POLICIES)).axes[0].get_xlabel() == "MMACs per image"


def test_a_run_of_full_encoders_alone_is_drawn(table):
    alone = table[table["policy"].eq("full") & table["cost_kind"].eq("gmacs") & table["backbone"].eq("small")]
    (axis, *_) = plot(alone, looks_of(POLICIES)).axes
    assert axis.get_xlim()[0] < 4 < axis.get_xlim()[1] and {text.get_text() for text in axis.texts} == {"small"}


def test_the_rule_to_draw_is_the_best_on_validation(table):
    own = table[table["dataset"].eq("digits") & table["cost_kind"].eq("gmacs")]
    assert best_rule(own) == "margin" and best_rule(own[own["policy"].eq("full")]) is None
    assert best_rule(own.assign(value_validation=np.nan)) == "entropy", "without validation images, test images decide"


@pytest.mark.parametrize(("left", "right"), [(0.3, 1.2), (2.5, 9), (0.004, 0.009), (1, 1000), (30, 31)])
def test_ticks_are_few_and_within_the_axis(left, right):
    ticks = log_ticks(left, right)
    assert all(left <= tick <= right for tick in ticks) and len(ticks) <= 7
    assert len(ticks) >= 2 or right / left < 1.5
