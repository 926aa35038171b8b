"""The report of a run: what it holds, under which names, and what a browser without a network shows first."""

import json
import re

import pytest
from conftest import ROOT
from reporting.browser import browser
from running import SMOKE, snakemake

pytestmark = pytest.mark.workflow
GRAPH = "document.querySelector('#rulegraph svg, #rulegraph canvas') !== null"


@pytest.fixture(scope="module")
def report(smoke):
    """The file of the report."""
    snakemake(smoke, "--report", "results/smoke/named.html", *SMOKE)
    return smoke / "results/smoke/named.html"


def data_of(report, name):
    """A variable of the report's scripts."""
    found = re.search(rf'<script id="{name}">\s*var {name} = (.*);\n', report.read_text())
    return json.loads(found[1])


def test_every_result_has_a_name_and_a_caption_of_its_own(report):
    results = data_of(report, "results")
    names = [list(one["labels"].values()) for one in results.values()]
    folder = report.parent
    files = [path for kind in ("tables", "figures") for path in (folder / kind).iterdir()]
    shown = {str(p.relative_to(folder.parents[1])) for p in files if p.suffix in (".csv", ".png", ".html")}
    assert set(results) == shown and len(shown) > 20
    assert all(len(name) == 1 and not re.search(r"[/_.]", name[0]) for name in names)
    captions = [one["caption"] for path, one in results.items() if path.endswith(".csv")]
    assert len(set(captions)) == len(captions) and all(len(caption) > 60 for caption in captions)


def test_results_are_listed_by_kind_and_question(report):
    found = data_of(report, "categories")
    assert set(found) == {"Overview", "Figures", "Tables"}
    for kind in ("Figures", "Tables"):
        assert set(found[kind]) == {"Results", "Exits", "Rates", "Costs and speed"}
    (pages,) = found["Overview"].values()
    assert {path.rpartition("/")[2] for path in pages} == {"explorer.html", "overview.html", "summary.html"}


def test_every_table_has_a_caption_file(report):
    rules = (ROOT / "workflow/rules/common.smk").read_text()
    tables = set(re.findall(r'"(\w+)"', " ".join(re.findall(r"^TABLE(?:S|_PARTS) \+?= (.*)$", rules, re.MULTILINE))))
    captions = {path.stem for path in (ROOT / "workflow/report/tables").glob("*.rst")}
    assert tables - {"float32", "features"} <= captions and len(tables) > 8


def test_it_opens_with_the_result_and_leads_to_the_explorer(report, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(f"file://{report}", GRAPH)
        top = page.run("document.querySelector('.overview h1').getBoundingClientRect().top")
        graph = page.run("document.querySelector('#rulegraph').getBoundingClientRect().top")
        assert 0 <= top < 100 and graph > 1000, "the graph of rules is below the result"
        text = page.run("document.querySelector('.overview').innerText")
        assert "demo-vit-8 at 60% of the full encoder's computation" in text and "What to look at" in text
        assert page.run("document.querySelector('.overview img').naturalWidth") > 500
        assert page.run("document.querySelector('.overview details').open") is False
        page.run("[...document.querySelectorAll('.overview a')].find(a => a.textContent === 'Explorer').click()")
        page.wait("document.querySelector('nav').innerText.includes('Explorer of operating points')")
        page.run("app.setView({content: 'html', contentPath: results['results/smoke/figures/explorer.html'].data_uri})")
        page.wait("document.querySelector('iframe') !== null")
        inside = page.frame()
        page.wait("document.body?.dataset.ready === 'yes'", inside)
        assert inside("document.getElementById('title').textContent") == "scenes: R@1, image to text, demo-vit-8"
        assert all(address.startswith(("file:", "data:", "about:")) for address in page.requests)
