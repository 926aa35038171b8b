import numpy as np
import pandas as pd
import pytest

from tgems.config.run import ALL_POLICIES
from tgems.evaluation.operating_points import exit_shares
from tgems.evaluation.semantic_content import groups, semantic_content
from tgems.policies.registry import POLICIES


def at(evaluated, policy, metric=None, **where):
    """The only row of the table that matches."""
    part = evaluated.table
    for key, value in ({"policy": policy, "metric": metric or evaluated.metric} | where).items():
        part = part[part[key].isna() if value is None else part[key] == value]
    assert len(part) == 1
    return part.iloc[0]


def test_every_policy_has_values_with_intervals(evaluated):
    table = evaluated.table
    assert set(table["policy"]) == set(ALL_POLICIES)
    assert table[["value", "rate", "ci_low", "ci_high", "delta_full", "n", "n_sources"]].notna().all().all()
    assert ((table["ci_low"] <= table["value"] + 1e-9) & (table["value"] <= table["ci_high"] + 1e-9)).mean() > 0.95


def test_full_is_the_backbone_itself(evaluated):
    truth = evaluated.splits[0].truth
    expected = (truth.image_ranks(evaluated.features.embeddings[:, None]) < 1).double().mean().item()
    full = at(evaluated, "full")
    assert full["value"] == pytest.approx(expected) and full["rate"] == 1 and full["delta_full"] == 0
    assert pd.isna(full["seed"])


def test_every_deciding_row_equals_a_loop_over_images(evaluated):
    checked = 0
    for split, fitted in zip(evaluated.splits, evaluated.fitted, strict=True):
        ranks = split.ranks
        for fit in (f for f in fitted if not POLICIES[f.policy].mixes and f.point.rate_target is not None):
            policy = POLICIES[fit.policy]
            price = policy.costs(evaluated.costs, len(split.outputs.bank), fit.point.visited)
            exits = policy.decide(split.outputs, fit.point).tolist()
            row = at(evaluated, fit.policy, seed=split.seed, rate_target=fit.point.rate_target)
            assert row["value"] == pytest.approx(np.mean([ranks[i, e] == 0 for i, e in enumerate(exits)]))
            assert row["rate"] == pytest.approx(np.mean([price[e] for e in exits]))
            assert row["rate"] == pytest.approx(fit.rate_validation), "fitted on the same images"
            checked += 1
    table = evaluated.table
    deciding = table["policy"].isin([name for name, policy in POLICIES.items() if not policy.mixes])
    calibrated = table["rate_target"].notna() & table["seed"].ne("mean") & table["metric"].eq(evaluated.metric)
    assert checked == (deciding & calibrated).sum() > 0


def test_shuffled_is_the_expectation_over_permutations(evaluated):
    split, metric = evaluated.splits[1], evaluated.metric
    own = next(r for r in evaluated.rows if r.about["policy"] == "max_softmax" and r.about["seed"] == 0)
    twin = next(r for r in evaluated.rows if r.about.get("twin_of") == "max_softmax" and r.about["seed"] == 0)
    by_exit = (split.ranks < 1).double().numpy()
    rng = np.random.default_rng(0)
    draws = [by_exit[np.arange(len(own.exits)), rng.permutation(own.exits)].mean() for _ in range(3000)]
    assert twin.hits[metric].mean() == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / np.sqrt(3000) + 1e-12)
    assert twin.rates.mean() == pytest.approx(own.rates.mean())


def test_differences_are_relative_to_a_policys_own_twin(evaluated):
    for policy in ("tgem", "margin", "saturation"):
        for seed in (0, 1, "mean"):
            row = at(evaluated, policy, seed=seed, rate_target=0.8)
            twin = at(evaluated, "shuffled", twin_of=policy, seed=seed, rate_target=0.8)
            assert row["delta_shuffled"] == pytest.approx(row["value"] - twin["value"])


def test_policies_that_need_the_texts_have_no_text_to_image_metrics(evaluated):
    retrieval = evaluated.table[evaluated.table["direction"] == "text_to_image"]
    if evaluated.features.captions is None:
        assert retrieval.empty
        return
    assert set(retrieval["policy"]) == {
        *("full", "fixed", "fixed_raw", "hull", "hull_raw", "random", "saturation", "saturation_raw"),
        *("learned_confidence", "router", "tgem", "shuffled"),
    }
    adaptive = {"saturation", "saturation_raw", "learned_confidence", "router", "tgem"}
    assert set(retrieval["twin_of"].dropna()) == adaptive
    assert retrieval["index_safe"].all()
    assert not evaluated.table[evaluated.table["policy"].isin(["tgem_bank", "margin", "oracle"])]["index_safe"].any()


def test_bank_sizes_are_tabulated(evaluated):
    table = evaluated.table
    needing = table["policy"].isin([name for name, p in POLICIES.items() if p.needs_bank])
    assert (table.loc[needing, "bank_size"] == len(evaluated.features.texts)).all()
    assert table.loc[~needing, "bank_size"].isna().all()


def test_oracle_bounds_every_deciding_policy(evaluated):
    bound = at(evaluated, "oracle", seed=0)["value"]
    own = evaluated.table.query("metric == @evaluated.metric and seed == 0 and policy != 'oracle'")
    assert (own["value"] <= bound + 1e-9).all()
    assert at(evaluated, "oracle_agree", seed=0)["value"] == pytest.approx(at(evaluated, "full")["value"])


def test_mean_and_deviation_are_those_of_the_seeds(evaluated):
    row = at(evaluated, "tgem", seed="mean", rate_target=0.8)
    values = [at(evaluated, "tgem", seed=s, rate_target=0.8)["value"] for s in (0, 1)]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["value_std"] == pytest.approx(np.std(values, ddof=1))
    assert pd.isna(at(evaluated, "tgem", seed=0, rate_target=0.8)["method_ci_low"]), (
        "one seed says nothing about others"
    )
    half = [row["ci_high"] - row["value"], row["method_ci_high"] - row["value"]]
    assert half[1] >= half[0] - 1e-9 > 0


def test_the_answer_costs_every_policy_the_same_and_is_no_part_of_the_rate(evaluated):
    expected = len(evaluated.features.texts) * evaluated.costs.embed_dim / 1e9
    assert evaluated.table["gmacs_answer"].to_numpy() == pytest.approx(expected)
    first = POLICIES["margin"].costs(evaluated.costs, len(evaluated.features.texts))[0]
    assert first == pytest.approx(evaluated.costs.fixed()[0]), "a visit to the exit that is taken costs nothing more"


def test_a_drawn_hull_meets_its_rate_where_an_index_is_built(evaluated):
    if evaluated.features.captions is None:
        return
    hull = evaluated.table.query("policy == 'hull' and seed == 'mean'")
    rates = hull.groupby(["rate_target", "direction"])["rate"].first().unstack()
    assert rates["image_to_text"].to_numpy() == pytest.approx(rates.index.to_numpy(), abs=1e-6)
    assert (rates["text_to_image"] <= rates.index + 0.08).all()


def test_semantic_content_at_the_last_block_is_that_of_the_backbone(evaluated):
    content = semantic_content(evaluated.splits[0], evaluated.splits[1:], {"dataset": "x"})
    whole = content[content["attribute"] == "all"]
    last = whole[(whole["exit_block"] == 8) & (whole["metric"] == evaluated.metric)]
    assert last["value"].tolist() == pytest.approx([at(evaluated, "full")["value"]] * 2)
    keys = ["head", "metric", "attribute", "group"]
    assert content.groupby(keys)["earliest_share"].apply(lambda s: s.is_monotonic_increasing).all()
    fixed = at(evaluated, "fixed", seed="mean", exit_block=3)["value"]
    trained = whole[(whole["head"] == "trained") & (whole["metric"] == evaluated.metric)]
    assert trained.set_index("exit_block").loc[3, "value"] == pytest.approx(fixed)


def test_groups_partition_the_images(evaluated):
    frame = pd.DataFrame([(a, inside) for a, _, inside in groups(evaluated.features.samples)], columns=["a", "in"])
    for attribute, part in frame.groupby("a"):
        assert (np.sum(part["in"].tolist(), axis=0) == 1).all(), attribute
    assert {"all", "difficulty"} <= set(frame["a"])


def test_group_values_average_to_the_whole(evaluated):
    content = semantic_content(evaluated.splits[0], evaluated.splits[1:], {"dataset": "x"})
    part = content.query("head == 'trained' and exit_block == 4 and metric == @evaluated.metric")
    thirds = part[part["attribute"] == "difficulty"]
    whole = part[part["attribute"] == "all"].iloc[0]
    assert thirds["n"].sum() == whole["n"]
    assert np.average(thirds["value"], weights=thirds["n"]) == pytest.approx(whole["value"])


def test_exit_shares_sum_to_one(evaluated):
    shares = exit_shares(evaluated.rows, evaluated.costs, {"dataset": "x"})
    keys = ["policy", "rate_target", "seed"]
    assert shares.groupby(keys)["share"].sum().to_numpy() == pytest.approx(1.0)


def test_a_table_can_be_stored_as_parquet(evaluated, tmp_path):
    frame = evaluated.table.astype({"seed": "string"})
    frame.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), frame, check_dtype=False)
