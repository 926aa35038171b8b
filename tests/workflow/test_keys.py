"""What each key of the configuration runs again on a finished run, and nothing else (tests/workflow/keys.yaml)."""

import json
from pathlib import Path

import pytest
import yaml
from running import SMOKE, planned, snakemake
from workflow.dry_runs import dry_runs

from tgems.config.document import keys

pytestmark = pytest.mark.workflow
TABLE = yaml.safe_load((Path(__file__).parent / "keys.yaml").read_text())
ROWS = TABLE["keys"]
IDLE = [key for key, row in ROWS.items() if row.get("runs") == []]


def rules_of(names):
    """Rules by name, with named sets of rules unfolded."""
    found = set()
    for name in names:
        found |= rules_of(TABLE["rules"][name]) if name in TABLE["rules"] else {name}
    return found


def test_every_key_has_a_row():
    sections = {key for key in keys() if any(other.startswith(f"{key}.") for other in keys())} - {"variants"}
    assert set(ROWS) == set(keys()) - sections


@pytest.fixture(scope="module")
def outputs(smoke):
    """Outputs of the dry runs of all rows that run something, by key."""
    runs = {
        key: [*SMOKE, "--config", f"{key.split('.')[0]}={row['value']}"] for key, row in ROWS.items() if key not in IDLE
    }
    return dict(zip(runs, dry_runs(smoke, list(runs.values())), strict=True))


def test_keys_that_change_no_result_run_nothing_even_together(smoke):
    values: dict[str, dict] = {}
    for key in IDLE:
        values.setdefault(key.split(".")[0], {}).update(yaml.safe_load(ROWS[key]["value"]))
    assert {"features", "joint", "pretraining", "demo"} == set(values)
    changes = [f"{section}={json.dumps(value)}" for section, value in values.items()]
    assert "Nothing to be done" in snakemake(smoke, "-n", *SMOKE, "--config", *changes).stdout


@pytest.mark.parametrize("key", [key for key in ROWS if key not in IDLE])
def test_a_changed_key_runs_what_it_can_change_and_nothing_else(outputs, key):
    row, output = ROWS[key], outputs[key]
    if "refused" in row:
        assert row["refused"] in output
        return
    assert "rror" not in output, output
    assert set(planned(output)) - {"all", "total"} == rules_of(row["runs"])
