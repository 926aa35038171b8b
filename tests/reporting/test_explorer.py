"""The explorer's file, as a browser without scripts would read it, and its data."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from reporting.test_reporting import points as tradeoff

from tgems.config.run import ALL_POLICIES
from tgems.reporting.explorer import explorer, plot_explorer, points

HOSTILE = "</script><script>hacked()</script><img src=x onerror=hacked()>\u2028\"'&amp;{{1}}"


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each script."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts, self._inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag == "script"
        self.scripts += [""] * self._inside

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


def run_of(page):
    """The data in a page."""
    return json.loads(gzip.decompress(base64.b64decode(Reader(page).scripts[0])))


@pytest.fixture
def table():
    """Rows of `tradeoff` with a threshold for each seed, and for one policy only for one seed."""
    rows = pd.concat([tradeoff("digits"), tradeoff("scenes")], ignore_index=True)
    single = rows["threshold"].notna()
    rows["threshold"] = rows["threshold"].mask(single, rows["seed"].map({"0": 0.25, "1": 0.123456}))
    rows.loc[rows["policy"].eq("margin") & rows["seed"].eq("1"), "threshold"] = None
    rows.loc[rows["policy"].eq("tgem") & rows["seed"].eq("mean"), "method_ci_low"] = 0.01
    return rows.assign(delta_full_ci_low=-0.2, n=70, n_sources=40)


def test_points_are_means_over_seeds_and_policies_without_seeds(table):
    rows = points(table)
    expected = table[table["seed"].isna() | table["seed"].eq("mean")]
    assert len(rows) == len(expected) == 3 * (1 + 7 + 3 * 2 * 2)
    assert sorted(rows["value"]) == sorted(expected["value"])
    assert set(rows["series"]) == {
        *("full", "fixed", "tgem", "tgem_bank", "margin"),
        *("shuffled tgem", "shuffled tgem_bank", "shuffled margin"),
    }


def test_thresholds_of_all_seeds_are_listed(table):
    found = {name: set(own["threshold"].dropna()) for name, own in points(table).groupby("series")}
    assert found["tgem_bank"] == {"0.25, 0.1235"} and found["margin"] == {"0.25"}
    assert found["fixed"] == set() and found["shuffled tgem"] == set()


def test_intervals_are_over_seeds_where_there_are_some(table):
    rows = points(table)
    assert set(rows.loc[rows["series"].eq("tgem"), "low"]) == {0.01}
    others = rows[rows["series"].eq("margin")]
    assert others["low"].to_numpy() == pytest.approx(others["value"].to_numpy() - 0.02)
    assert set(rows["delta_low"]) == {-0.2}


def test_the_file_is_alone_and_the_same_each_time(table, tmp_path):
    table.to_csv(tmp_path / "tradeoff.csv", index=False)
    for name in ("a", "b"):
        plot_explorer(tmp_path / "tradeoff.csv", ALL_POLICIES, tmp_path / f"{name}.html")
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    addresses = [v for _, attrs in Reader(page).elements for k, v in attrs.items() if k in ("src", "href")]
    assert addresses == ["#"], "nothing is loaded from elsewhere"
    assert not re.search(r"jsdelivr|unpkg|cdnjs|googleapis", page)


def test_a_run_of_usual_size_can_be_opened_within_a_report(table):
    """Chromium opens no frame whose address is longer than 2 MiB, and the report makes an address of the page."""
    many = pd.concat([table.assign(backbone=f"backbone {i}") for i in range(200)], ignore_index=True)
    noise = np.random.default_rng(0)
    for column in ("value", "rate", "ci_low", "ci_high", "delta_full", "delta_full_ci_low", "delta_full_ci_high"):
        many[column] = noise.random(len(many))
    rows = points(many)
    assert len(rows) == 12000 and len(base64.b64encode(explorer(rows).encode())) < 2**21 - 100


def test_the_security_policy_admits_the_two_scripts_alone(table):
    page = Reader(explorer(points(table)))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.scripts[1:]]
    assert policy.startswith("default-src 'none'; ") and len(digests) == 2
    allowed = re.search(r"script-src ([^;]+);", policy)[1].split()
    assert allowed == [f"'sha256-{digest}'" for digest in digests]


def test_names_stay_data(table):
    odd = table.replace({"digits": HOSTILE, "demo": f"demo {HOSTILE}", "acc1": f"metric {HOSTILE}"})
    usual, page = explorer(points(table)), explorer(points(odd))
    assert Reader(page).elements == Reader(usual).elements and "hacked" not in page
    run = run_of(page)
    assert HOSTILE in run["columns"]["dataset"]["values"]
    assert run["columns"]["backbone"]["values"] == [f"demo {HOSTILE}"]


def test_policies_of_ones_own_are_drawn_as_they_declare(table, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from tgems.policies.confidence import Margin\n"
        "class Own(Margin):\n    name = 'own'\n    label = '<b>own</b>'\n    color = '#123456'\n    marker = '*'\n"
    )
    page = explorer(points(table.replace({"margin": "own"})), [*ALL_POLICIES, f"{own}:Own"])
    series = {one["name"]: one for one in run_of(page)["series"]}
    assert series["own"]["label"] == "<b>own</b>" and series["own"]["color"] == "#123456"
    assert series["shuffled own"]["of"] == "own" and not series["own"]["main"]
    assert series["tgem"]["main"] and "margin" not in series
