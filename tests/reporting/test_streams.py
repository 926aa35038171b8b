"""Tables of streams are summed up, and thresholds that move are shown nowhere else."""

import pandas as pd
import pytest

from tgems.reporting.calibration import shown_first
from tgems.reporting.claims import streams


def record(calibration, seed, images, excess, policy="tgem", dataset="digits", delta=None, **more):
    about = {"backbone": "b", "dataset": dataset, "policy": policy, "calibration": calibration, "rate_target": 0.6}
    return about | {"seed": seed, "images": images, "excess": excess, "delta_in_domain": delta} | more


def test_streams_are_read_after_500_images_or_at_their_end():
    table = pd.DataFrame(
        [
            *(record("online", seed, 100, 0.5) for seed in "01"),
            record("online", "0", 500, 0.004),
            record("online", "1", 500, -0.02),
            record("online", "mean", 500, 0.3),
            *(record("online", seed, 2000, 0.4, delta=-0.9) for seed in "01"),
            record("online", "mean", 2000, 0.4, delta=-0.002),
            record("online", "mean", 2000, 0.4, policy="margin", delta=-0.004),
            record("online", "0", 500, 0.9, policy="patience"),
            record("online", None, 450, 0.03, policy="margin_raw", dataset="handwriting", delta=-0.1),
            record("online", None, 100, 0.9, policy="margin_raw", dataset="handwriting"),
        ]
    )
    found = streams(table).set_index(["head", "dataset"])
    own = found.loc["trained", "digits"]
    assert own[["mean", "largest", "within"]].tolist() == pytest.approx([0.012, 0.02, 0.5])
    assert own[["points", "lowest"]].tolist() == pytest.approx([-0.3, -0.4])
    raw = found.loc["raw", "handwriting"]
    assert raw[["mean", "largest", "within", "points"]].tolist() == pytest.approx([0.03, 0.03, 0, -10])


@pytest.mark.parametrize("frozen", ["in_domain", "transfer"])
def test_thresholds_that_move_are_not_shown_first(frozen):
    rows = pd.DataFrame([record(frozen, "0", 1, 0), record("online", "0", 1, 0), record(None, "0", 1, 0)])
    assert shown_first(rows)["calibration"].dropna().tolist() == [frozen] and len(shown_first(rows)) == 2
