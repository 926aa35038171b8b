"""Exits that are chosen by time: as many as their time allows, spread evenly, and such that the rate can be met."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.test_cli import tgems

from tgems.errors import UserError
from tgems.policies.chosen_exits import fit_among, require_choice
from tgems.policies.registry import POLICIES
from tgems.provenance import read_json
from tgems.runtime import exits_by_time as module
from tgems.runtime.block_times import BlockTimes
from tgems.runtime.calibration import calibrate
from tgems.runtime.exits_by_time import draw_among, exits_by_time, spread_exits
from tgems.runtime.folder import load

DEPTH = 10
BLOCKS = tuple(range(1, DEPTH + 1))


def times(visit: float, head: float = 0.0) -> BlockTimes:
    """Blocks of one second per image; stem and end are free, visits and heads take this long per call."""
    n = np.array([1.0, 64.0])
    calls = np.ones((DEPTH - 1, 2))
    return BlockTimes((1, 64), 0 * n, np.tile(n, (DEPTH, 1)), 0 * n, visit * calls, head * calls)


def prices(asked):
    """Each block costs a tenth of the encoder, and evaluating the policy at an exit a thousandth."""
    visited = np.isin(np.arange(DEPTH - 1), asked)
    return np.arange(1, DEPTH + 1) / DEPTH + 0.001 * np.append(np.cumsum(visited), visited.sum())


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 3), st.floats(0.25, 0.95), st.sampled_from([1, 4, 16]))
def test_the_most_exits_are_asked_that_their_time_allows(visit, target, batch_size):
    chosen = exits_by_time(times(visit), prices, BLOCKS, target, batch_size, 8)
    assert chosen.asked == tuple(sorted(set(chosen.asked))) and prices(chosen.asked)[chosen.asked[0]] <= target
    assert chosen.share <= 0.05 or len(chosen.asked) == 1
    tighter = exits_by_time(times(visit * 2), prices, BLOCKS, target, batch_size, 8)
    assert len(tighter.asked) <= len(chosen.asked)
    free = exits_by_time(times(0.0), prices, BLOCKS, target, batch_size, 8)
    assert free.asked == tuple(range(DEPTH - 1)) and free.share == 0


def test_the_expected_speedup_equals_a_closed_form():
    """One exit, after half of the blocks, which four of eight single images take."""
    images = 64
    chosen = exits_by_time(times(0.5, 0.25), lambda asked: np.arange(1, 11) / 10.0, BLOCKS, 0.6, 1, 1, share=0.06)
    drawn = draw_among(np.arange(1, 11) / 10, chosen.asked, 0.6, images)
    visits = sum(k <= exit_ for exit_ in drawn for k in chosen.asked) * 0.5
    heads = (drawn < DEPTH - 1).sum() * 0.25
    whole = (drawn + 1).sum() + visits + heads
    assert chosen.share == pytest.approx(visits / whole) and chosen.speedup == pytest.approx(DEPTH * images / whole)


@given(st.floats(0.2, 1), st.integers(1, 9))
def test_exits_are_spread_from_below_the_target(target, number):
    rates = np.arange(1, DEPTH + 1) / DEPTH
    exits = spread_exits(rates, target, number)
    assert 1 <= len(exits) <= number and exits == tuple(sorted(set(exits))) and exits[-1] < DEPTH - 1
    assert abs(rates[exits[0]] - 0.75 * target) <= 0.05 + 1e-9
    gaps = np.diff(rates[list(exits)])
    assert gaps.size == 0 or gaps.max() - gaps.min() < 0.1 + 1e-9, "but for rounding to whole blocks"


def test_exits_that_are_drawn_meet_the_rate():
    rates = np.arange(1, DEPTH + 1) / DEPTH
    drawn = draw_among(rates, (2, 5), 0.6, 400)
    assert set(drawn) == {2, 5, 9} and rates[drawn].mean() == pytest.approx(0.6, abs=0.005)


@pytest.mark.parametrize("policy", ["tgem", "tgem_bank"])
def test_thresholds_are_fitted_among_the_exits(known, policy):
    """With all exits the fit is the usual one; fewer exits meet the rate on the same images."""
    outputs, used = known.splits[policy].outputs, POLICIES[policy]
    (every,) = fit_among(used, outputs, [0.6], range(7))
    (usual,) = used.fit(outputs, [0.6])
    assert torch.equal(every.at_exits(7), usual.at_exits(7))
    (some,) = fit_among(used, outputs, [0.6], (1, 4))
    assert set(some.visited) <= {1, 4}
    price = used.costs(outputs.costs, len(outputs.bank), some.visited)
    exits = used.decide(outputs, some).numpy()
    assert set(exits) <= {1, 4, 7} and price[exits].mean() <= 0.6 + 1e-9


def test_policies_that_must_be_evaluated_at_every_exit_are_refused(known):
    costs = known.split.costs
    for policy in ("router", "saturation", "patience"):
        with pytest.raises(UserError, match=f"'{policy}' remembers .*--by-time"):
            require_choice(POLICIES[policy], costs)

    class Own(type(POLICIES["tgem"])):
        def fit(self, validation, rate_targets):
            return []

    with pytest.raises(UserError, match="has its own fit"):
        require_choice(Own(), costs)


@pytest.fixture
def slow_visits(monkeypatch):
    """Evaluating the policy at an exit takes half as long as a block."""

    def measured(tower, decider, largest, seconds, **options):
        n = np.array([1.0, float(largest)]) if largest > 1 else np.ones(1)
        exits = np.ones((len(decider.costs.blocks) - 1, len(n)))
        return BlockTimes(tuple(n.astype(int)), n, np.tile(n, (tower.depth, 1)), n, exits * n / 2, exits * 0)

    monkeypatch.setattr(module, "measure_block_times", measured)


@pytest.mark.usefixtures("slow_visits")
def test_calibration_by_time_restricts_and_holds_the_rate(make, known):
    model = make()
    found = model.calibrate(known.images, rate=0.6, by_time=True, batch_size=4)
    assert len(found.chosen.asked) == 1 and found.calibration.visited == found.chosen.asked
    assert found.calibration.made["by_time"]["asked"] == list(found.chosen.asked)
    assert model._decider().asked == found.chosen.asked
    exits = model.encode_image(known.images, return_exits=True).exits.numpy()
    assert set(exits) <= {*found.chosen.asked, 7} and model.rates[exits].mean() <= 0.6 + 1e-9
    fast = replace(model.early_exit, calibrations={"own": found.calibration})
    with pytest.raises(UserError, match="exits are chosen by time for a rate"):
        calibrate(model.backbone, fast, known.images, keep=0.9, by_time=True)


def test_the_command_names_the_exits_and_saves_them(saved, pictures, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "tgem")
    two = tmp_path / "two"
    two.mkdir()
    for i, path in enumerate([*pictures.rglob("*.png")] * 2):
        shutil.copy(path, two / f"{i}.png")
    run = tgems("calibrate", folder, two, "--rate", "0.6", "--by-time", "--batch-size", "2")
    assert "images may leave after block" in run and "speed-up of" in run
    made = read_json(folder / "config.json")["calibrations"]["own"]["made"]
    assert made["by_time"]["batch_size"] == 2 and made["by_time"]["speedup"] > 0
    assert load(folder)[1].calibrations["own"].visited == tuple(made["by_time"]["asked"])
