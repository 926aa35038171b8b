"""Measuring speed: exits that are drawn, intervals, and the baseline. No test depends on the speed of the machine."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DEMO, variant
from hypothesis import given
from hypothesis import strategies as st

from tgems.backbones.references import model_config
from tgems.config.run import LatencyOptions
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import write_costs
from tgems.errors import UserError
from tgems.runtime import latency
from tgems.runtime.drawn_exits import draw_exits
from tgems.runtime.engine import encode_early
from tgems.runtime.latency import EARLY, FULL, measure_latency, run_latency, trained_shares
from tgems.runtime.speed_table import median_interval, speed_table

COSTS = module_costs(model_config(DEMO), variant(8, 8))
HIDDEN = {"heads": 8, "image_gates": 8}
HALF = np.array([0, 0, 0, 0.5, 0, 0, 0, 0.5])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda p: sum(p) > 0.1), st.integers(1, 200))
def test_drawn_exits_have_the_shares_asked_for(shares, n):
    shares = np.array(shares) / np.sum(shares)
    counts = np.bincount(draw_exits(shares, n), minlength=len(shares))
    assert counts.sum() == n and (np.abs(np.cumsum(counts) - n * np.cumsum(shares)) <= 1).all()


def test_planned_exits_are_taken_and_their_gates_are_asked(demo_backbone, monkeypatch):
    taken = []

    def spy(*arguments, **options):
        encoded = encode_early(*arguments, **options)
        taken.append((options["planned"], encoded.exits))
        return encoded

    monkeypatch.setattr(latency, "encode_early", spy)
    table = measure_latency(
        demo_backbone.tower, COSTS, HIDDEN, {0.75: HALF}, LatencyOptions(batch_sizes=[4], seconds=0.01)
    )
    assert len(taken) >= 8 * latency.LEAST and all(torch.equal(planned, exits) for planned, exits in taken)
    early = table.query("encoder == @EARLY").iloc[0]
    assert early["rate"] == pytest.approx(COSTS.image_guided()[[3, 7]].mean())
    assert early["flops_speedup"] == pytest.approx(1 / early["rate"])
    assert early["bound"] > 1 and early["share_of_bound"] == pytest.approx(early["speedup"] / early["bound"])
    assert table.query("encoder == @FULL")["speedup"].iloc[0] == 1


def test_speedup_is_relative_to_the_faster_full_encoder():
    times = {(FULL, None): [[4.0], [5.0], [4.0]], ("full, in chunks", None): [[2.0], [2.0], [2.0]]}
    times[EARLY, 0.5] = [[1.0], [1.0], [2.0]]
    table = speed_table(times, {(EARLY, 0.5): 0.5}, {(EARLY, 0.5): 4.0}, {(EARLY, 0.5): 7}, 8, 1).set_index("encoder")
    assert table["speedup"].to_dict() == {FULL: 0.5, "full, in chunks": 1, EARLY: 2}
    assert table.loc[EARLY, ["speedup_ci_low", "speedup_ci_high"]].tolist() == [1, 2]
    assert table.loc[EARLY, "efficiency"] == 1 and table.loc[EARLY, "images_per_second"] == 8
    assert table.loc[FULL, "latency_ms_p50"] == 4000
    assert table.loc[EARLY, "asked"] == 7 and table.loc[FULL, ["asked"]].isna().all()
    assert table.loc[EARLY, ["bound", "share_of_bound"]].tolist() == [4, 0.5]
    assert table.loc[[FULL, "full, in chunks"], ["bound", "share_of_bound"]].isna().all(axis=None)


@given(st.integers(1, 14))
def test_the_interval_covers_the_median_in_enough_of_all_cases(n):
    """Each value is above the median or below it with equal chance, so that all `2^n` cases can be counted."""

    def covered(low: int) -> float:
        sides = [sum(case >> k & 1 for k in range(n)) for case in range(2**n)]
        return sum(low <= below <= n - low for below in sides) / 2**n

    low, high = median_interval([float(k) for k in range(1, n + 1)][::-1])
    assert low + high == n + 1, "as many values above as below"
    assert covered(int(low)) >= 0.95 or (low == 1 and n < 6)
    assert int(low) + 1 > n // 2 or covered(int(low) + 1) < 0.95, "no narrower interval would do"


def test_histogram_is_the_mean_over_seeds():
    rows = [("tgem", "in_domain", 0.5, *row) for row in ((0, 4, 1.0), (0, 8, 0.0), (1, 4, 0.5), (1, 8, 0.5))]
    rows.append(("margin", "in_domain", 0.5, 0, 4, 1.0))
    exits = pd.DataFrame(rows, columns=["policy", "calibration", "rate_target", "seed", "exit_block", "share"])
    assert trained_shares(exits)[0.5].tolist() == [0.75, 0.25]
    with pytest.raises(UserError, match="needs policy 'tgem'"):
        trained_shares(exits.query("policy == 'margin'"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_sizes": []}, "nothing to measure"), ({"device": "cuda"}, "torch sees no CUDA device")],
)
def test_what_cannot_be_measured_is_named(tmp_path, changes, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    write_costs(tmp_path / "macs.json", COSTS, {})
    options = LatencyOptions(**{"batch_sizes": [1], "seconds": 1} | changes)
    with pytest.raises(UserError, match=message):
        run_latency(DEMO, HIDDEN, [0.6], str(tmp_path / "macs.json"), [], options, {}, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
