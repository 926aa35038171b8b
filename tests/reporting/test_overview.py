"""The overview of a run and the table `summary` as pages: numbers, and names of a user's configuration."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from reporting.test_reporting import made, png  # noqa: F401

from tgems.config.run import ALL_POLICIES
from tgems.reporting.overview import MORE, overview_page, shown_rates, write_overview

HOSTILE = "<script>hacked()</script>\"'><img src=x onerror=hacked()>&amp;"
CONFIG = {"variants": {"default": {}}, "policies": list(ALL_POLICIES), "evaluation": {"compared": ["digits", "scenes"]}}


class Reader(HTMLParser):
    """Elements, the text outside of elements that hold code, and the tables as lists of rows."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.tables = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.tables and self.tables[-1] and self.tables[-1][-1] and self.elements[-1][0] in ("td", "th"):
            self.tables[-1][-1][-1] += data.strip("\n")


@pytest.fixture
def tables(made):  # noqa: F811
    """Tables `contributions` and `wins` of two data sets."""
    folder = made[0] / "tables"
    wins = pd.read_csv(folder / "wins.csv").assign(variant="default")
    return pd.read_csv(folder / "contributions.csv"), wins


def test_the_headline_is_the_t_gem_at_the_middle_rate_with_its_interval(tables):
    contributions, wins = tables
    contributions.loc[contributions["step"].eq("image_gates") & contributions["rate"].eq(0.75), "value"] = 0.654
    result, details = overview_page(contributions, wins, png(), CONFIG).split(MORE)
    page = Reader(result)
    assert "demo at 75% of the full encoder's computation" in page.text
    assert len(re.findall("T-GEM, image-guided, 95 % interval 0.580 to 0.620", page.text)) == 3
    assert page.text.count("0.654") == 3 and page.text.count("full encoder 0.700") == 3
    assert page.text.count("trained heads, best rule 0.500") == 3 and page.tables == []


def test_bank_guided_t_gems_come_first_where_they_are_possible(tables):
    contributions, wins = tables
    bank = contributions[contributions["step"].eq("image_gates") & contributions["dataset"].eq("digits")]
    both = pd.concat([contributions, bank.assign(step="bank_gates", value=0.777)])
    text = Reader(overview_page(both, wins, png(), CONFIG).split(MORE)[0]).text
    assert text.count("T-GEM, bank-guided") == 1 and text.count("T-GEM, image-guided") == 2 and "0.777" in text


def test_tables_hold_every_step_at_equal_rates_and_count_the_verdicts(tables):
    equal, counts = Reader(overview_page(*tables, png(), CONFIG)).tables
    assert equal[0] == ["", "digits: accuracy", "scenes: R@1, image to text", "scenes: R@1, text to image"]
    assert equal[1] == ["rate", *["0.45", "0.75"] * 3]
    values = {line[0]: line[1:] for line in equal[2:]}
    assert values["frozen projection, fixed exit"] == ["0.300"] * 6 and values["full encoder"] == ["0.700"] * 6
    assert counts[1] == ["demo", "T-GEM, image-guided", "the best other policy on validation images", *"1121"]


def test_rates_are_the_lowest_the_middle_and_the_highest():
    def found(*rates):
        return shown_rates(pd.DataFrame({"step": ["heads_fixed"] * len(rates) + ["full"], "rate": [*rates, 1.0]}))

    assert found(0.9, 0.3, 0.45, 0.6, 0.75, 0.3) == [0.3, 0.6, 0.9]
    assert found(0.6) == [0.6] and found(0.2, 0.4) == [0.2, 0.4] and found(np.nan) == []


def test_a_run_without_t_gems_or_comparisons_has_its_figure_and_configuration():
    page = Reader(overview_page(pd.DataFrame(), pd.DataFrame(), png(), CONFIG | {"seeds": [5, 6]}))
    (image,) = [attrs for tag, attrs in page.elements if tag == "img"]
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png()
    assert "seeds:\n- 5\n- 6\n" in page.text and page.tables == []


def test_names_are_shown_as_they_are_and_nothing_is_loaded(tables, made, tmp_path):  # noqa: F811
    odd = {"digits": f"digits {HOSTILE}", "demo": f"demo {HOSTILE}"}
    usual = Reader(overview_page(*tables, png(), CONFIG))
    renamed = [table.replace(odd) for table in tables]
    page = Reader(overview_page(*renamed, png(), CONFIG | {"note": HOSTILE}))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in usual.elements]
    assert all(text in page.text for text in odd.values()) and page.text.count(HOSTILE) > 4
    assert not re.search(r"(src|href)=\"(?!data:)", overview_page(*renamed, png(), CONFIG))


def test_files_hold_the_tables_of_the_first_variant(made, tmp_path):  # noqa: F811
    tables = made[0] / "tables"
    (tmp_path / "tradeoff.png").write_bytes(png())
    config = CONFIG | {"evaluation": {"compared": ["digits"]}}
    write_overview(tables, tmp_path / "tradeoff.png", config, tmp_path / "o.html", tmp_path / "s.html")
    assert "scenes: R@1" not in (tmp_path / "o.html").read_text()
    (shown,) = Reader((tmp_path / "s.html").read_text()).tables
    expected = pd.read_csv(tables / "summary.csv")
    assert shown[0] == list(expected.columns) and len(shown) == 1 + len(expected)
    assert [float(line[shown[0].index("rate")]) for line in shown[1:]] == pytest.approx(expected["rate"].tolist())
