"""Outcomes of single images: kept without loss, and paired over backbones."""

import numpy as np
import pandas as pd
import pytest

from tgems.errors import UserError
from tgems.evaluation.estimates import direction_of
from tgems.evaluation.outcomes import SETTING, PairedOutcomes, images_of, mean_outcomes, outcomes, realisable
from tgems.evaluation.wins import difference, interval_of
from tgems.policies.registry import POLICIES


@pytest.fixture
def folders(evaluated, tmp_path):
    """Folders of two evaluations with the same outcomes."""
    found = {(name, "default"): tmp_path / name for name in ("one", "two")}
    for folder in found.values():
        folder.mkdir()
        outcomes(realisable(evaluated.points, POLICIES, "in_domain")).to_parquet(folder / "outcomes.parquet")
        images_of(evaluated.features).to_parquet(folder / "image_sources.parquet")
    return found


def means_of(evaluated) -> pd.DataFrame:
    table = evaluated.table
    return table[table["seed"].isna() | table["seed"].eq("mean")]


def test_only_what_an_encoder_can_run_is_kept(evaluated):
    kept = {point.about["policy"] for point in realisable(evaluated.points, POLICIES, "in_domain")}
    assert kept == {name for name, policy in POLICIES.items() if policy.runs} | {"full"}
    assert not kept & {"hull", "random", "oracle", "oracle_agree", "shuffled"}
    others = {point.about["policy"] for point in realisable(evaluated.points, POLICIES, "transfer")}
    assert others == {"full", "fixed", "fixed_raw"}, "thresholds of another source are left out"


def test_values_and_intervals_are_those_of_the_table(evaluated, folders):
    paired, rows = PairedOutcomes(folders), means_of(evaluated)
    kept = outcomes(realisable(evaluated.points, POLICIES, "in_domain"))
    checked = 0
    for row in rows[rows["metric"].isin(set(kept["metric"])) & rows["policy"].isin(set(kept["policy"]))].to_dict(
        "records"
    ):
        setting = pd.Series({"backbone": "one", "variant": "default"} | {c: row[c] for c in SETTING})
        found = interval_of(paired.value(setting, row["metric"]), paired.sources)
        ends = [*np.clip(found.modules, 0, 1).ravel(), *np.clip(found.method, 0, 1).ravel()]
        columns = ["value", "ci_low", "ci_high", "method_ci_low", "method_ci_high"]
        assert [found.value[0], *ends] == pytest.approx([row[c] for c in columns], nan_ok=True)
        checked += 1
    assert checked > 40


def test_differences_over_backbones_are_paired(evaluated, folders):
    """Both hold the same outcomes, so that the difference to the other's full encoder is that to one's own."""
    paired, rows = PairedOutcomes(folders), means_of(evaluated)
    row = rows[rows["policy"].eq("tgem") & rows["metric"].eq(evaluated.metric)].iloc[0]
    own = pd.Series({"backbone": "one", "variant": "default"} | {c: row[c] for c in SETTING})
    block = evaluated.costs.blocks[-1]
    full = pd.Series(
        {"backbone": "two", "variant": "default", "policy": "full", "rate_target": np.nan, "exit_block": block}
    )
    found = difference(paired.value(own, evaluated.metric) - paired.value(full, evaluated.metric), paired.sources)
    columns = {"difference": "delta_full", "ci_low": "delta_full_ci_low", "method_ci_high": "delta_full_method_ci_high"}
    assert [found[c] for c in columns] == pytest.approx([row[c] for c in columns.values()])
    with pytest.raises(ValueError, match="no outcomes"):
        paired.value(own.replace({"tgem": "hull"}), evaluated.metric)


def test_other_images_are_refused(evaluated, folders):
    images = images_of(evaluated.features)
    images.iloc[::-1].to_parquet(folders["two", "default"] / "image_sources.parquet")
    with pytest.raises(UserError, match="two: its test images are not those of .*one; delete"):
        PairedOutcomes(folders)


def test_means_on_validation_images_are_those_of_the_points(evaluated):
    found = mean_outcomes(realisable(evaluated.points, POLICIES, "in_domain"), evaluated.features)
    assert (found["metric"].map(direction_of) == found["direction"]).all()
    both = means_of(evaluated).merge(found, on=[*SETTING, "metric"], suffixes=("", "_mean"))
    assert len(both) == len(found) > 40
    assert both["value"].to_numpy() == pytest.approx(both["value_mean"].to_numpy())
    assert both["rate"].to_numpy() == pytest.approx(both["rate_mean"].to_numpy())
