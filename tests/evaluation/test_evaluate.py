import numpy as np
import pandas as pd
import pytest
import torch

from tgems.backbones.config import model_config
from tgems.evaluation import evaluate, rows
from tgems.evaluation.inputs import Truth, outputs_of
from tgems.evaluation.thresholds import concave_hull, fit_seed, mix_for_target
from tgems.exits.modules import BankGates, ExitHeads, ImageGates
from tgems.exits.policies import POLICIES, ExitModules, choose_exits
from tgems.features.cache import load_features
from tgems.profiling.costs import module_costs

POLICY_NAMES = ["full", "fixed", "fixed_raw", "hull", "shuffled", "margin", "tgem", "tgem_bank"]


@pytest.fixture(scope="module")
def modules():
    torch.manual_seed(0)
    image, bank = ImageGates(7, 128, 4), BankGates(7, 128, 4)
    torch.nn.init.normal_(image.down.weight)
    return ExitModules(ExitHeads(7, 128, 8, 64), {0.6: image}, bank)


@pytest.fixture(scope="module", params=["digits", "scenes"])
def evaluated(request, demo_features, modules):
    """Features, rows and the trade-off table of one data set, by random modules and its own thresholds."""
    from conftest import DEMO_SOURCE

    features = load_features(demo_features / request.param)
    costs = module_costs(model_config(DEMO_SOURCE), list(range(1, 9)), 8, 4)
    fitted, hulls = fit_seed(features, modules, costs, 0, POLICY_NAMES, [0.6])
    outputs = outputs_of(features, modules, costs)
    table = [
        *rows.unseeded_rows(features, costs, POLICY_NAMES),
        *rows.seed_rows(features, outputs, 0, POLICY_NAMES, fitted, hulls),
    ]
    about = {"backbone": "demo", "dataset": request.param, "task": "any"}
    return features, costs, fitted, outputs, table, evaluate.tradeoff(table, features, costs, about, 50)


def test_every_policy_and_column_is_there(evaluated):
    frame = evaluated[-1]
    assert list(frame.columns) == evaluate.COLUMNS
    assert set(frame["policy"]) == set(POLICY_NAMES)
    assert frame[["value", "rate", "ci_low", "ci_high", "delta_full", "n", "n_clusters"]].notna().all().all()
    assert ((frame["ci_low"] <= frame["value"] + 1e-9) & (frame["value"] <= frame["ci_high"] + 1e-9)).mean() > 0.95


def test_full_is_the_backbone_itself(evaluated):
    features, _, _, _, _, frame = evaluated
    truth = Truth.of(features)
    expected = (truth.image_ranks(features.embeddings[:, None]) < 1).double().mean().item()
    metric = "acc1" if truth.text_image is None else "text_retrieval_recall@1"
    full = frame.query("policy == 'full' and metric == @metric").iloc[0]
    assert full["value"] == pytest.approx(expected) and full["rate"] == 1 and full["delta_full"] == 0


def test_adaptive_rows_equal_a_loop_over_images(evaluated):
    features, costs, fitted, outputs, _, frame = evaluated
    truth = Truth.of(features)
    metric = "acc1" if truth.text_image is None else "text_retrieval_recall@1"
    ranks = truth.image_ranks(outputs.embeddings)
    for fit in fitted:
        policy = POLICIES[fit.policy]
        price = policy.costs(costs, len(outputs.bank))
        exits = choose_exits(policy.scores(outputs, 0.6), fit.threshold).tolist()
        row = frame.query("policy == @fit.policy and metric == @metric and seed == 0").iloc[0]
        assert row["value"] == pytest.approx(np.mean([ranks[i, e] == 0 for i, e in enumerate(exits)]))
        assert row["rate"] == pytest.approx(np.mean([price[e] for e in exits]))
        assert row["rate"] == pytest.approx(fit.rate_validation), "fitted on these very images"


def test_shuffled_is_the_expectation_over_permutations(evaluated):
    _, _, fitted, outputs, table, _ = evaluated
    own = next(r for r in table if r.about["policy"] == "margin")
    twin = next(r for r in table if r.about["policy"] == "shuffled" and r.about["variant"] == "margin")
    metric = next(iter(own.hits))
    by_exit = np.stack(
        [
            next(r for r in table if r.about.get("exit_block") == e and r.about["policy"] == "fixed").hits[metric]
            for e in range(1, 8)
        ]
        + [next(r for r in table if r.about["policy"] == "full").hits[metric]],
        1,
    )
    rng = np.random.default_rng(0)
    draws = [by_exit[np.arange(len(own.exits)), rng.permutation(own.exits)].mean() for _ in range(3000)]
    assert twin.hits[metric].mean() == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / np.sqrt(3000) + 1e-12)
    assert twin.rates.mean() == pytest.approx(own.rates.mean())


def test_bank_policies_are_not_index_safe(evaluated):
    frame = evaluated[-1]
    retrieval = frame[frame["direction"] == "text_to_image"]
    assert not retrieval["policy"].eq("tgem_bank").any(), "refused: the query is not known when the index is built"
    assert not retrieval.query("policy == 'margin'")["index_safe"].any()
    assert retrieval.query("policy == 'tgem'")["index_safe"].all()


def test_semantic_content_ends_at_the_backbone(evaluated):
    features, costs, _, outputs, _, frame = evaluated
    content = evaluate.semantic_content(features, [outputs.embeddings], costs, {"dataset": "x"}, 20)
    last = content[content["exit_block"] == 8]
    metric = content["metric"].iloc[0]
    assert last["value"].tolist() == pytest.approx(
        [frame.query("policy == 'full' and metric == @metric")["value"].iloc[0]] * 2
    )
    assert content.groupby("head")["earliest_share"].apply(lambda s: s.is_monotonic_increasing).all()


def test_exit_shares_sum_to_one(evaluated):
    _, costs, _, _, table, _ = evaluated
    shares = evaluate.exit_shares(table, costs, {"dataset": "x"})
    assert shares.groupby(["policy", "rate_target"])["share"].sum().to_numpy() == pytest.approx(1.0)


def test_mean_over_seeds_averages_hits_and_rates(evaluated):
    table = [r for r in evaluated[4] if r.about.get("seed") == 0]
    from dataclasses import replace

    second = [
        replace(r, about=r.about | {"seed": 1}, hits={k: 1 - v for k, v in r.hits.items()}, rates=r.rates + 0.2)
        for r in table
    ]
    averaged = rows.mean_over_seeds([*table, *second])
    assert len(averaged) == len(table)
    assert all((r.about["seed"] == "mean") for r in averaged)
    assert all(h == pytest.approx(np.full(len(h), 0.5)) for r in averaged for h in r.hits.values())
    assert averaged[0].rates.mean() == pytest.approx(table[0].rates.mean() + 0.1)


def test_hull_is_concave_and_above_every_point():
    rates = np.array([0.1, 0.3, 0.5, 0.7, 1.0])
    values = np.array([0.2, 0.5, 0.4, 0.8, 0.9])
    hull = concave_hull(rates, values)
    assert hull == [0, 1, 3, 4]
    assert (np.interp(rates, rates[hull], values[hull]) >= values - 1e-12).all()


@pytest.mark.parametrize(("target", "mix"), [(0.2, (0, 1, 0.5)), (0.05, (0, 1, 0.0)), (1.0, (3, 4, 1.0))])
def test_hull_meets_its_target_by_mixing_two_exits(target, mix):
    low, high, weight = mix_for_target(np.array([0.1, 0.3, 0.5, 0.7, 1.0]), [0, 1, 3, 4], target)
    assert (low, high) == mix[:2] and weight == pytest.approx(mix[2])


def test_tables_are_plain_data(evaluated, tmp_path):
    frame = evaluated[-1].astype({"seed": "string"})
    frame.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), frame, check_dtype=False)
