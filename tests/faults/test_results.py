"""A results folder with one changed value in a record: what reads it works, or says in one line what is wrong."""

import json
import shutil

import pytest
from hostile import changes

from tgems.errors import UserError
from tgems.provenance import read_json
from tgems.reporting.compare import compare_runs
from tgems.runtime.export import from_results

RECORDS = (
    "tables/provenance.json",
    "profiling/demo/default/macs.json",
    "evaluation/demo/default/scenes/thresholds.json",
    "exits/demo/default/heads/seed-0/config.json",
    "exits/demo/default/image/rate-0.60/seed-0/config.json",
)


@pytest.fixture(scope="module")
def edited(results, tmp_path_factory):
    """A copy of the run, of which one record is changed at a time."""
    return shutil.copytree(results, tmp_path_factory.mktemp("edited") / "results")


def ends(call) -> str:
    """Return the line that a call ends with, or "" if it succeeds."""
    try:
        call()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return str(error)
    return ""


@pytest.mark.parametrize("record", RECORDS)
def test_a_changed_value_is_one_line(results, edited, demo_backbone, monkeypatch, record):
    monkeypatch.setattr("tgems.runtime.export.load_backbone", lambda entry: demo_backbone)
    value = read_json(results / record)
    if "evaluations" in value:  # hundreds of digests, each of which may be another
        value["evaluations"] = {}
    if "thresholds" in value:  # of a hundred points, those that are exported
        value["thresholds"] = [f for f in value["thresholds"] if f["policy"] == "tgem" and f["point"]["rate_target"]]
    lines = []
    for changed in changes(value):
        (edited / record).write_text(json.dumps(changed))
        lines.append(ends(lambda: from_results(edited, "demo")))
        if "provenance" in record:
            lines.append(ends(lambda: compare_runs(results, edited)))
    shutil.copy(results / record, edited / record)
    named = [line for line in lines if str(edited) in line]
    assert len(named) > 50 and not ends(lambda: from_results(edited, "demo"))
