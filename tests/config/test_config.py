import copy
import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hypothesis import given as every
from hypothesis import settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tgems.config.document import keys, schema, table, with_table
from tgems.config.reading import refuse_duplicate_keys
from tgems.config.run import RunConfig
from tgems.data.dataset_entries import given
from tgems.errors import UserError
from tgems.workflow_config import complete_config, recorded_config, trained_gates


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def smoke(**changes):
    return yaml.safe_load((ROOT / "configs/smoke.yaml").read_text()) | changes


@pytest.mark.parametrize("name", ["config", "smoke", "paper", "ablations", "alternatives"])
def test_shipped_configurations_are_valid_and_completed(name):
    given_config = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    before = copy.deepcopy(given_config)
    config = complete_config(given_config)
    assert given_config == before, "the input is left alone"
    assert "hidden" in config["heads"] and "margin" in config["evaluation"], "defaults are filled in"
    assert all(d["splits"]["test"] == "test" for d in config["datasets"].values())
    assert complete_config(config) == config


GOOD = yaml.safe_load((Path(__file__).parent / "good.yaml").read_text())


def complete_smoke(text, folder):
    """Complete the smoke configuration with some top-level keys replaced, as reading files with them would."""
    (folder / "changes.yaml").write_text(text)
    refuse_duplicate_keys([folder / "changes.yaml"])
    return complete_config(smoke(**yaml.safe_load(text)))


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case["text"])
def test_good_values_are_read_as_intended(case, tmp_path):
    config = complete_smoke(case["text"], tmp_path)
    assert reduce(getitem, case["key"].split("."), config) == case["value"]
    assert complete_config(config) == config


OWN = {"source": "wds:x", "task": "zeroshot_classification"}
PAIRS = {"source": "hub:a/b", "task": "zeroshot_retrieval"}


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "flickr30",
            {},
            "datasets.flickr30 has no source, and 'flickr30' is not a known name; did you mean 'flickr30k'?",
        ),
        ("own", {"source": "wds:x"}, "datasets.own has no task"),
        ("own", OWN | {"source": "hub:flickr30k"}, "datasets.own.source: 'hub:flickr30k' is not allowed here"),
        (
            "own",
            OWN | {"splits": {"validaton": "x"}},
            "key 'validaton' at datasets.own.splits; did you mean 'validation'?",
        ),
        (
            "own",
            OWN | {"splits": {"test": "test[-2:]"}},
            "datasets.own.splits.test is 'test[-2:]', expected a split folder",
        ),
        (
            "own",
            OWN | {"splits": {"test": "test[2:2]"}},
            "datasets.own.splits.test is 'test[2:2]', which holds no shard",
        ),
        (
            "own",
            OWN | {"splits": {"train": "t", "validation": "t[:2]"}},
            "train 't' and validation 't[:2]' share shards",
        ),
        (
            "own",
            OWN | {"splits": {"test": "t[1:3]", "validation": "t[2:]"}},
            "validation 't[2:]' and test 't[1:3]' share",
        ),
        (
            "own",
            OWN | {"splits": {"validation": "./test"}},
            "validation './test' and test 'test' share shards",
        ),
        (
            "own",
            OWN | {"splits": {"validation": "../x/test"}},
            "expected a folder inside the data set's source",
        ),
        (
            "own",
            OWN | {"splits": {"validation": "none"}},
            "has no validation images (splits.validation is 'none'); set",
        ),
        (
            "own",
            OWN | {"splits": {"test": "none"}},
            "splits.test is 'none', but only the training data set can do without",
        ),
        ("own", OWN | {"root": "/data"}, "datasets.own.root is for source 'hub:ORG/REPO' only"),
        ("own", OWN | {"revision": "v1"}, "datasets.own.revision is for source 'hub:ORG/REPO' only"),
        ("own", OWN | {"source": "tars:x"}, "source 'tars:FOLDER' holds captioned images"),
        ("own", OWN | {"jobs": {"test": 0}}, "datasets.own.jobs.test is 0; it should be greater than or equal to 1"),
        ("own", OWN | {"on_bad_sample": "skp"}, "did you mean 'skip'?"),
        (
            "digits",
            {"source": "demo", "task": OWN["task"], "splits": {"test": "test[:1]"}},
            "a demo set only has 'test'",
        ),
        ("scenes", PAIRS | {"splits": {"validation": "none"}}, "the training data set needs validation images"),
        ("scenes", PAIRS | {"calibration": ["transfer"]}, "add 'in_domain'"),
    ],
)
def test_bad_entries_get_one_line_that_names_them(name, entry, message):
    config = smoke()
    config["datasets"] = config["datasets"] | {name: entry}
    with pytest.raises(UserError) as error:
        complete_config(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_known_name_fills_in_only_what_is_left_out():
    config = smoke()
    config["datasets"] |= {"flickr30k": {"root": "/big"}, "pets": {"splits": {"validation": "train[:1]"}}}
    config["datasets"] |= {"imagenet1k": {"source": "wds:/i", "task": "zeroshot_classification"}}
    found = complete_config(config)["datasets"]
    assert found["flickr30k"]["source"] == "hub:clip-benchmark/wds_flickr30k" and found["flickr30k"]["root"] == "/big"
    assert found["flickr30k"]["splits"] == {"train": "train[:4]", "validation": "train[4:]", "test": "test"}
    assert (
        found["pets"]["splits"] == {"validation": "train[:1]", "test": "test"} and found["pets"]["root"] == "data/pets"
    )
    assert found["imagenet1k"]["splits"] == {"validation": "validation", "test": "test"}, "a folder of one's own"
    assert found["scenes"]["splits"] == {"train": "train", "validation": "validation", "test": "test"}
    assert found["pets"]["calibration"] == ["in_domain", "transfer", "online"]


def test_a_training_set_need_not_be_reported():
    pairs = {"source": "tars:cc3m", "task": "zeroshot_retrieval"}
    pairs["splits"] = {"train": "[4:]", "validation": "[:4]", "test": "none"}
    config = smoke(training={"dataset": "cc3m"})
    config["datasets"] |= {"cc3m": pairs}
    assert complete_config(config)["datasets"]["cc3m"]["splits"] == pairs["splits"]


def test_known_data_sets_are_complete_and_documented():
    page = (ROOT / "docs/adding-a-dataset.md").read_text()
    for name, entry in given().items():
        keys = {"source", "revision", "task", "splits", "images", "kilobytes", "licence"}
        keys |= {"prompts"} if entry["task"] == "zeroshot_classification" else set()
        assert set(entry) - {"calibration"} == keys, name
        assert set(entry["images"]) == {role for role, split in entry["splits"].items() if split != "none"}, name
        assert re.fullmatch(r"[0-9a-f]{40}|main", entry["revision"]), name
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` ")), "")
        assert entry["source"].removeprefix("hub:") in row and entry["licence"] in row, name
        assert entry["revision"][:7] in row, name
        config = smoke()
        config["datasets"] |= {name: {}}
        if entry["task"] == "zeroshot_retrieval":
            config["training"] = {"dataset": name}
        assert complete_config(config)["datasets"][name]["revision"] == entry["revision"]


def test_equal_validation_and_test_are_refused():
    config = smoke()
    config["datasets"]["other"] = {"source": "wds:x", "task": "zeroshot_retrieval", "splits": {"validation": "test"}}
    with pytest.raises(UserError, match="datasets.other.splits: validation 'test' and test 'test' share shards"):
        complete_config(config)


@settings(deadline=None)
@every(st.text(min_size=1).filter(lambda key: key not in RunConfig.model_fields))
def test_no_unknown_key_passes(key):
    with pytest.raises(UserError, match="unknown key"):
        complete_config(smoke(**{key: 1}))


ODD = (None, [], {}, "", -1, True, float("nan"), "[", [None], {1: 2}, 10**400, "1e999", "\x1b[2J", b"x")


@pytest.mark.parametrize("key", keys())
def test_no_value_of_any_key_raises_anything_but_one_line(key):
    *sections, last = (
        key.replace("backbones.*", "backbones.demo-vit-8").replace("datasets.*", "datasets.digits").split(".")
    )
    for value in ODD:
        config = smoke()
        reduce(lambda part, name: part.setdefault(name, {}), sections, config)[last] = value
        try:
            complete_config(config)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600


def test_every_key_is_described():
    for row in table().splitlines()[2:]:
        key, _, _, meaning = row.strip("| ").split(" | ", 3)
        assert meaning.endswith("."), f"{key} has no description"


def test_schema_and_table_are_up_to_date():
    """If this fails, run `python -m tgems.config.document`."""
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == schema()
    readme = (ROOT / "configs/README.md").read_text()
    assert readme == with_table(readme)


def test_the_schema_accepts_what_is_shipped():
    validator = Draft202012Validator(json.loads(schema()))
    for path in (ROOT / "configs").glob("*.yaml"):
        validator.validate(yaml.safe_load(path.read_text()))


def test_gates_follow_from_policies(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("class Own(ThresholdPolicy):\n    name, gates = 'own', 'bank'\n")
    assert trained_gates(["full", "margin"]) == []
    assert trained_gates(["full", "tgem", "learned_confidence"]) == ["image", "confidence"]
    assert trained_gates(["full", "random"]) == ["image"] and trained_gates(["random", "tgem_bank"]) == ["bank"]
    assert trained_gates(["full", f"{own}:Own"]) == ["bank"]


def test_recorded_configurations_leave_out_what_changes_no_number():
    other = smoke(features={"workers": 3, "batch_size": 2, "in_memory_gb": 0}, latency={}, results="elsewhere")
    other["datasets"] = {k: v | {"jobs": {"test": 2}} for k, v in other["datasets"].items()}
    assert recorded_config(complete_config(other)) == recorded_config(complete_config(smoke()))
    changed = recorded_config(complete_config(smoke(seeds=[1])))
    assert changed != recorded_config(complete_config(smoke()))
