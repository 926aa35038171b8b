"""Records that jobs read back, with one changed value: the job works, or says in one line what is wrong."""

import json

import pytest
from faults.breaking import break_, cases, check_line
from hostile import changes

from tgems.data.fetch import fetch_split
from tgems.data.webdataset import SplitFiles
from tgems.errors import UserError
from tgems.evaluation.record import read_evaluation_record
from tgems.features.cache import load_features
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding
from tgems.outputs import write_json
from tgems.provenance import read_json
from tgems.reporting.run_record import write_provenance
from tgems.reporting.tables import precision

TASK = "zeroshot_classification"
DIGEST = "0" * 64
EVALUATION = {
    "weights": DIGEST,
    "test": {"n": 2, "shards": {"0.tar": DIGEST}, "prompts": DIGEST, "skipped": []},
    "precision": {
        "precision": "bfloat16",
        "n": 2,
        "cosine": 0.99,
        "metrics": {"acc1": {"value": 0.5, "float32": 0.5, "change": 0.0}},
    },
    "validation": {"in_domain": {"n": 2}},
    "query_bank": {"in_domain": None},
    "modules": {"heads/seed-0": DIGEST},
    "recorded": {"versions": {}, "commit": "unknown"},
}


@pytest.fixture(scope="module")
def run(demo_backbone, demo_data, tmp_path_factory):
    """By record, its file and the function of a job that reads it."""
    root = tmp_path_factory.mktemp("records")
    receipt, features = root / "data/digits/test.json", root / "features/demo/digits/test"
    fetch_split("digits", "test", f"wds:{demo_data / 'digits'}", "test", TASK, receipt)
    split = SplitFiles.of(receipt, TASK)
    extract_features(demo_backbone, split, features, Encoding(batch_size=64))
    evaluation = root / "evaluation/demo/default/digits/provenance.json"
    write_json(evaluation, EVALUATION)

    def tabulate():
        write_provenance([str(evaluation)], {}, root / "tables/provenance.json")
        precision([str(evaluation)])

    return {
        "receipt": (receipt, lambda: SplitFiles.of(receipt, TASK)),
        "shard": (features.with_name("test.shards") / "0/shard.json",
                  lambda: extract_features(demo_backbone, split, features, Encoding(batch_size=64))),
        "manifest": (features / "manifest.json", lambda: load_features(features).at_exits((2, 5, 8), 64 * 5)),
        "evaluation": (evaluation, tabulate),
    }  # fmt: skip


def line_of(call):
    """The line that a call ends with, or None if it works."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("record", ["receipt", "shard", "manifest", "evaluation"])
def test_a_changed_value_is_one_line(run, record):
    file, read = run[record]
    intact = file.read_bytes()
    assert line_of(read) is None
    lines = []
    for changed in changes(read_json(file)):
        file.write_text(json.dumps(changed))
        lines.append(line_of(read))
    file.write_bytes(intact)
    assert all("\n" not in line and len(line) < 1000 for line in lines if line)
    assert sum(line is not None and str(file.parent) in line for line in lines) > 30 and line_of(read) is None


@pytest.mark.parametrize("record", ["receipt", "shard", "manifest", "evaluation"])
@pytest.mark.parametrize("case", cases("records"))
def test_a_damaged_record_is_named_with_the_way_out(run, record, case):
    file, read = run[record]
    intact = file.read_bytes()
    break_(file.parent, [operation | {next(iter(operation)): file.name} for operation in case["do"]])
    line = line_of(read)
    file.write_bytes(intact)
    assert line and str(file.parent) in line and "delete" in line
    check_line(line, case)


def test_an_evaluation_is_recorded_as_it_is_read(run):
    assert read_evaluation_record(run["evaluation"][0]).model_dump(mode="json") == EVALUATION
