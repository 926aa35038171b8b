"""The explorer in a real Chromium that has no network."""

import base64
import re

import pytest
from reporting.browser import browser
from reporting.test_explorer import HOSTILE, table  # noqa: F401

from tgems.reporting.explorer import explorer, points

READY = "document.body?.dataset.ready === 'yes'"
MARKS = "[...document.querySelectorAll('#chart .mark-symbol path')]"
ROWS = "[...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent))"
HEADS = "[...document.querySelectorAll('#head th')].map(c => c.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page
        assert page.errors == []
        assert all(address.startswith(("file:", "data:", "about:")) for address in page.requests), page.requests


@pytest.fixture
def rows(table):  # noqa: F811
    return points(table)


@pytest.fixture
def address(rows, tmp_path):
    (tmp_path / "explorer.html").write_text(explorer(rows))
    return f"file://{tmp_path}/explorer.html"


def choose(page, key, value):
    select = f"document.getElementById({key!r})"
    page.run(f"{select}.value = {value!r}; {select}.dispatchEvent(new Event('change'))")


def shown(page):
    """Policies and values of the marks that are drawn."""
    return sorted(page.run(f"{MARKS}.map(m => [m.__data__.datum.series, m.__data__.datum.value])"))


def expected(rows, dataset, metric, series=("full", "fixed", "margin", "tgem", "tgem_bank")):
    own = rows[rows["dataset"].eq(dataset) & rows["metric"].eq(metric) & rows["series"].isin(series)]
    return sorted([name, round(value, 5)] for name, value in zip(own["series"], own["value"], strict=True))


def middle(page, index):
    """Middle of a mark, in pixels of the window."""
    box = f"{MARKS}[{index}].getBoundingClientRect()"
    return page.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")


def place_of(page, rate):
    """Place of a rate in the figure."""
    pixels = "document.querySelector('#chart .background').getBoundingClientRect()"
    left, top, width, height = page.run(f"(b => [b.x, b.y, b.width, b.height])({pixels})")
    return left + width * rate / 1.02, top + height * 0.6


def test_it_opens_and_follows_the_data_set_and_the_metric(page, address, rows):
    page.open(address, READY)
    assert shown(page) == expected(rows, "digits", "acc1")
    choose(page, "dataset", "scenes")
    page.wait(f"{MARKS}[0].__data__.datum.dataset === 'scenes'")
    assert shown(page) == expected(rows, "scenes", "text_retrieval_recall@1")
    choose(page, "metric", "image_retrieval_recall@1")
    assert shown(page) == expected(rows, "scenes", "image_retrieval_recall@1")
    assert page.run("document.getElementById('title').textContent") == "scenes: R@1, text to image, demo"


def test_policies_are_chosen(page, address, rows):
    page.open(address, READY)
    page.run("document.querySelector('#policies input[value=tgem]').click()")
    assert shown(page) == expected(rows, "digits", "acc1", ("full", "fixed", "margin", "tgem_bank"))
    page.run("document.getElementById('none').click()")
    page.run("document.querySelector('#policies input[value=margin]').click()")
    page.run("document.getElementById('shuffled').click()")
    assert shown(page) == expected(rows, "digits", "acc1", ("margin", "shuffled margin"))


def test_pointing_at_a_mark_tells_its_numbers(page, address, rows):
    page.open(f"{address}#policy=tgem_bank&rates=0.3-0.9", READY)
    x, y = middle(page, 0)
    page.move(x - 3, y)
    page.move(x, y)
    page.wait("document.querySelector('#vg-tooltip-element.visible') !== null")
    told = page.run("document.querySelector('#vg-tooltip-element').innerText")
    for text in ("T-GEM, bank-guided", "0.43 to 0.47", "0.44", "0.25, 0.1235", "70 images of 40 sources", "0.1"):
        assert text in told, "also within a selected range"


def test_dragging_fills_the_table_and_the_link_restores_the_choice(page, address, rows):
    page.open(address, READY)
    choose(page, "dataset", "scenes")
    page.run("document.querySelector('#policies input[value=tgem]').click()")
    assert page.run(ROWS) == []
    page.drag(place_of(page, 0.4), place_of(page, 0.6))
    page.wait(f"{ROWS}.length > 0")
    lines, heads = page.run(ROWS), page.run(HEADS)
    low, high = map(float, re.search(r"rates=([\d.]+)-([\d.]+)", page.run("location.hash")).groups())
    assert low == pytest.approx(0.4, abs=0.01) and high == pytest.approx(0.6, abs=0.01)
    own = rows[rows["dataset"].eq("scenes") & rows["metric"].eq("text_retrieval_recall@1")]
    own = own[own["series"].isin(["full", "fixed", "margin", "tgem_bank"]) & own["rate"].between(low, high)]
    assert sorted(float(line[heads.index("Value")]) for line in lines) == pytest.approx(sorted(own["value"]))
    assert {line[heads.index("Exit")] for line in lines} == {"4", "–"}

    marks = shown(page)
    link = page.run("document.getElementById('link').href")
    page.open(link, READY)
    assert page.run(ROWS) == lines and shown(page) == marks
    page.run("document.getElementById('clear').click()")
    page.wait(f"{ROWS}.length === 0")
    assert "rates" not in page.run("location.hash")


def test_a_link_to_what_the_run_lacks_is_reported(page, address, rows):
    page.open(f"{address}#dataset=%3Cb%3E&policy=nobody&policy=tgem", READY)
    note = "This run does not have what the link names: dataset <b>, policy nobody."
    assert page.run("document.getElementById('note').innerText") == note
    assert shown(page) == expected(rows, "digits", "acc1", ("tgem",))


def test_hostile_names_are_only_shown(page, table, tmp_path):  # noqa: F811
    odd = table.replace({"digits": HOSTILE, "demo": f"demo {HOSTILE}"})
    (tmp_path / "odd.html").write_text(explorer(points(odd)))
    page.open(f"file://{tmp_path}/odd.html#rates=0.1-0.9", READY)
    assert page.run("document.getElementById('title').textContent").startswith(HOSTILE)
    assert HOSTILE in page.run("[...document.getElementById('dataset').options].map(o => o.textContent)")
    assert page.run("document.scripts.length") == 3 and page.run("document.images.length") == 0


def test_it_opens_inside_a_report(page, rows, tmp_path):
    """Snakemake's report shows a page in a frame whose address is the page itself."""
    encoded = base64.b64encode(explorer(rows).encode()).decode()
    frame = f'<iframe src="data:text/html;charset=utf8;filename=explorer.html;base64,{encoded}"></iframe>'
    (tmp_path / "report.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{frame}")
    page.open(f"file://{tmp_path}/report.html", "document.querySelector('iframe') !== null")
    inside = page.frame()
    page.wait(READY, inside)
    assert inside(f"{MARKS}.length") == len(expected(rows, "digits", "acc1"))
    assert inside("document.getElementById('link').hidden"), "a frame has no address to keep the choice in"
