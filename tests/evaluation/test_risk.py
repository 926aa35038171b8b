"""Promises of quality in the harness: what is fitted where, what is certified, and what is reported."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.errors import UserError
from tgems.evaluation.paths import FittedPath, SavedPaths, as_json, fit_paths, halves, pack, read_paths, unpack
from tgems.evaluation.risk import COLUMNS, RESPLITS, Resplits, risk
from tgems.evaluation.risk_control import allowed_losses, certified_points
from tgems.evaluation.split import Split
from tgems.outputs import write_json
from tgems.policies.lost_texts import lost_texts
from tgems.policies.registry import POLICIES

TARGETS = [0.45, 0.8]
RISKS = [0.1, 0.3]
ABOUT = {"backbone": "demo", "variant": "default", "dataset": "one"}


@pytest.fixture(scope="module")
def paths(evaluated):
    return [path for split in evaluated.splits for path in fit_paths(split, POLICIES, TARGETS)]


@pytest.fixture(scope="module")
def saved(evaluated, paths):
    return SavedPaths.model_validate_json(json.dumps(as_json(len(evaluated.features.samples), paths)))


@pytest.fixture(scope="module")
def table(evaluated, saved):
    return risk(evaluated.splits, saved, POLICIES, RISKS, ABOUT)


@given(st.integers(2, 500))
def test_halves_share_no_image_and_leave_none_out(n):
    one, other = halves(n)
    assert sorted([*one, *other]) == list(range(n)) and len(one) - len(other) in (0, 1)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**31))
def test_losses_survive_packing(n, points, seed):
    losses = np.random.default_rng(seed).random((n, points)) < 0.3
    assert np.array_equal(unpack(pack(losses), n, points), losses)
    with pytest.raises(ValueError, match="are not the losses of"):
        unpack(pack(losses), n + 8, points)


def test_paths_are_fitted_on_one_half_and_lose_on_the_other(evaluated, paths):
    """Against a loop over images, with each image's own best text by its similarities."""
    split = evaluated.splits[1]
    own = {path.policy: path for path in paths if path.seed == split.seed}
    names = {name for name, policy in POLICIES.items() if policy.runs and not policy.frozen_head}
    assert set(own) == names
    fitting, rest = halves(len(split.outputs))
    best = (split.embeddings @ split.outputs.bank.T).argmax(-1)
    for name in ("fixed", "margin", "tgem", "router"):
        policy, path = POLICIES[name], own[name]
        assert list(path.points) == policy.path(split.outputs.select(torch.from_numpy(fitting)), TARGETS)
        losses = unpack(path.losses, len(rest), len(path.points))
        for j, point in enumerate(path.points):
            exits = policy.decide(split.outputs, point)
            expected = [bool(best[i, exits[i]] != best[i, -1]) for i in rest]
            assert losses[:, j].tolist() == expected


def test_modules_of_one_rate_target_make_no_path(evaluated):
    split = evaluated.splits[1]
    alone = Split(split.features, split.costs, split.modules, split.seed, policies=("tgem",), rate_target=0.45)
    assert fit_paths(alone, POLICIES, TARGETS) == []


def test_rows_say_what_was_certified_and_what_came_of_it(evaluated, paths, saved, table):
    assert list(table.columns) == COLUMNS
    by_seed = {split.seed: split for split in evaluated.splits}
    n = len(evaluated.features.samples)
    for path in paths:
        policy, split = POLICIES[path.policy], by_seed[path.seed]
        losses = unpack(path.losses, saved.n, len(path.points))
        own = table[table["policy"].eq(path.policy)]
        own = own[own["seed"].isna()] if path.seed is None else own[own["seed"].eq(str(path.seed))]
        assert list(own["risk_target"]) == RISKS and (own["n"] == n).all() and (own["n_calibration"] == saved.n).all()
        for row in own.itertuples():
            count = certified_points(losses, allowed_losses(saved.n, row.risk_target, n, 0.05))
            if not count:
                assert (row.rate, row.loss, row.full_share) == (1, 0, 1)
                continue
            point = path.points[count - 1]
            price = policy.costs(split.costs, len(split.outputs.bank), point.visited)
            rate = np.mean([price[k] for k in policy.decide(split.outputs, point)])
            assert row.full_share == 0 and row.rate == pytest.approx(rate)
            assert row.loss == pytest.approx(lost_texts(policy, split.outputs, [point]).mean())
            assert row.rate_ci_low <= row.rate <= row.rate_ci_high


def test_means_are_over_seeds(table):
    seeded = table[table["seed"].notna()]
    for (_, _), rows in seeded.groupby(["policy", "risk_target"]):
        mean, each = rows[rows["seed"].eq("mean")], rows[rows["seed"].ne("mean")]
        assert len(mean) == 1 and len(each) == 2
        for column in ("rate", "loss", "full_share", "exceeded"):
            assert mean[column].iloc[0] == pytest.approx(each[column].mean())


def test_promises_are_kept_over_resplits(table):
    assert (table["exceeded"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RESPLITS)).all()
    expected = np.sqrt(table["exceeded"] * (1 - table["exceeded"]) / RESPLITS)
    assert np.allclose(table["exceeded_se"], expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 12))
def test_resplits_are_what_a_loop_finds(seed, allowed):
    rng = np.random.default_rng(seed)
    pool = rng.random((40, 6)) < np.linspace(0.02, 0.5, 6)
    draws = np.stack([rng.permutation(40) < 15 for _ in range(20)]).astype(np.float32)
    broken = 0
    for draw in draws.astype(bool):
        count = certified_points(pool[draw], allowed)
        broken += count > 0 and pool[~draw, count - 1].sum() > 0.2 * 25 + 1e-9
    assert Resplits.of(pool, draws).broken(0.2, allowed) == broken / 20


def test_without_own_validation_images_there_are_no_rows(evaluated):
    empty = risk(evaluated.splits, None, POLICIES, RISKS, ABOUT)
    assert list(empty.columns) == COLUMNS and empty.empty


def test_damaged_paths_are_one_line(evaluated, paths, tmp_path):
    good = as_json(len(evaluated.features.samples), paths)
    write_json(tmp_path / "paths.json", good)
    assert read_paths(tmp_path / "paths.json", evaluated.costs).paths == tuple(paths)
    for change, message in (
        ({"n": good["n"] + 8}, "losses of policy '.*' are damaged"),
        ({"paths": [good["paths"][0] | {"losses": "???"}]}, "losses of policy '.*' are damaged"),
        ({"paths": [good["paths"][0] | {"points": [{"exit": 99}]}]}, "is not of 8 exits"),
        ({"n": None}, "n is None"),
    ):
        write_json(tmp_path / "paths.json", good | change)
        with pytest.raises(UserError, match=message) as error:
            read_paths(tmp_path / "paths.json", evaluated.costs)
        assert "\n" not in str(error.value) and "paths.json" in str(error.value)


def test_a_path_is_plain_data():
    path = FittedPath("fixed", 0, (), pack(np.zeros((3, 0), dtype=bool)))
    assert unpack(path.losses, 3, 0).shape == (3, 0)
