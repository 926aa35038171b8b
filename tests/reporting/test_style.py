"""All figures are of one style: readable text, a width that fits a paper, and looks that belong to a run."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from reporting.test_reporting import made  # noqa: F401

from tgems.reporting.curves import MeanCurve
from tgems.reporting.figures import FIGURES
from tgems.reporting.panels import block_ticks, panel_slots
from tgems.reporting.style import WIDTH, looks_of, save, use_style

OWN = """
from tgems.policies.trained_gates import TGem
class Mine(TGem):
    name = "mine"
    label = "my T-GEM"
    color = "#123456"
"""


@pytest.mark.parametrize("name", FIGURES)
def test_text_has_eight_points_at_the_width_of_a_paper(made, name, tmp_path):  # noqa: F811
    use_style()
    root, parts = made
    frames = {path.stem: pd.read_csv(path, dtype={"seed": str}) for path in (root / "tables").glob("*.csv")}
    frames |= {kind: pd.concat(map(pd.read_parquet, files), ignore_index=True) for kind, files in parts.items()}
    figure = FIGURES[name](frames, looks_of())
    drawn = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert drawn and min(text.get_fontsize() for text in drawn) >= 8
    save(figure, str(tmp_path / "a.pdf"), str(tmp_path / "a.png"))
    inches = plt.imread(tmp_path / "a.png").shape[1] / plt.rcParams["savefig.dpi"]
    assert 3 < inches < WIDTH + 0.3


def test_looks_belong_to_a_run_and_know_the_users_own_t_gem(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    with_own = looks_of(["full", "margin", "tgem", f"{tmp_path}/own.py:Mine", "shuffled", "oracle"])
    without = looks_of(["full", "tgem"])
    assert list(without) == ["tgem", "full"], "not those of another run"
    found = pd.Series(["oracle", "mine", "margin", "full"])
    assert with_own.contenders(found) == ["mine"] and with_own["mine"].own and with_own["mine"].color == "#123456"
    assert with_own.among(found) == ["mine", "margin", "full", "oracle"]
    assert [policy for policy in with_own if with_own[policy].rival] == ["margin"]


def test_policies_of_one_run_are_told_apart_without_colour():
    looks = looks_of()
    drawn = [looks[policy] for policy in looks if looks[policy].contender or looks[policy].rival]
    trained = [look.marker for look in drawn if not look.frozen_head]
    assert len(set(trained)) == len(trained) and all(trained)


@given(st.integers(1, 60))
def test_ticks_of_blocks_are_few_and_end_at_the_last(last):
    ticks = block_ticks(last)
    assert ticks[0] == 1 and ticks[-1] == last and ticks == sorted(ticks) and len(ticks) <= 6


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_every_panel_has_a_place_of_its_own_and_blocks_begin_new_rows(sizes):
    blocks = [[(block, k) for k in range(size)] for block, size in enumerate(sizes)]
    figure, slots = panel_slots(blocks, 1.0)
    places = {key: (slot.rowspan.start, slot.colspan.start) for key, slot in slots.items()}
    plt.close(figure)
    assert len(set(places.values())) == len(places) == sum(sizes)
    assert all(places[block, 0][1] == 0 for block in range(len(sizes)))
    assert list(places.values()) == sorted(places.values())


def test_a_curve_is_read_between_its_points_and_kept_beyond_its_last():
    curve = MeanCurve(np.array([0.3, 0.6]), np.array([50.0, 80.0]))
    assert curve.at([0.2, 0.29, 0.45, 0.6, 0.9]) == pytest.approx([np.nan, 50, 65, 80, 80], nan_ok=True)
