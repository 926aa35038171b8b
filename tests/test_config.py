import copy
import re

import pytest
import yaml
from conftest import ROOT
from hypothesis import given as every
from hypothesis import strategies as st

from tgems.config import complete_config
from tgems.data.entries import given
from tgems.errors import UserError

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def smoke(**changes):
    return yaml.safe_load((ROOT / "configs/smoke.yaml").read_text()) | changes


@pytest.mark.parametrize("name", ["config", "smoke", "paper", "ablations"])
def test_shipped_configurations_are_valid_and_completed(name):
    given_config = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    before = copy.deepcopy(given_config)
    config = complete_config(given_config, SCHEMA)
    assert given_config == before, "the input is left alone"
    assert config["heads"]["hidden"] > 0 and config["evaluation"]["margin"] == 0.01
    assert all(d["splits"]["test"] == "test" for d in config["datasets"].values())
    assert complete_config(config, SCHEMA) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_target": [0.5]}, "unknown key 'rate_target' at the top level; did you mean 'rate_targets'?"),
        ({"heads": {"hiden": 4}}, "unknown key 'hiden' at heads; did you mean 'hidden'?"),
        ({"rate_targets": [1.2]}, "rate_targets.0: 1.2 is greater than the maximum of 1"),
        ({"rate_targets": [0]}, "rate_targets.0"),
        ({"rate_targets": [0.05]}, "0.05 is below the cheapest exit of backbone 'demo-vit-8'"),
        ({"policies": ["marginn"]}, "did you mean 'margin'?"),
        ({"seeds": []}, "seeds"),
        ({"backbones": {"b": {"source": "local-dir:x"}}}, "'pretrained' is a required property"),
        ({"backbones": {"b": {"pretrained": "local-dir:assets/none"}}}, "folder assets/none does not exist"),
        ({"backbones": {"b": {"model": "convnext_base", "pretrained": "random"}}}, "'convnext_base' is not supported"),
        (
            {"backbones": {"b": {"model": "RN50", "pretrained": "random"}}, "rate_targets": [0.1]},
            "is below the cheapest exit of backbone 'b'",
        ),
        ({"datasets": {"digit": {"source": "demo", "task": "zeroshot_classification"}}}, "did you mean 'digits'?"),
        ({"training": {"dataset": "scene", "split": "train"}}, "did you mean 'scenes'?"),
        ({"training": {"dataset": "scenes", "split": "test"}}, "'test' is also a validation or test split"),
        ({"training": {"dataset": "digits", "split": "train"}}, "has no captions"),
        ({"policies": ["margin"]}, "lack 'full'"),
        ({"guidance": ["image"]}, "policy 'tgem_bank' needs guidance 'bank'"),
        ({"guidance": [], "policies": ["full", "random"]}, "draws from a T-GEM's exit histogram"),
        ({"policies": ["full", "own.py:Own"]}, "there is no file 'own.py'"),
        ({"variants": {"a": {"heads": {"hiden": 1}}}}, "unknown key 'hiden' at variants.a.heads"),
        ({"summary": {"grid": 5}}, "summary.grid 5 is too fine for backbone 'demo-vit-8', which has 4 x 4 positions"),
        ({"variants": {"a": {"summary": {"grid": 9}}}}, "summary.grid 9 is too fine for backbone 'demo-vit-8'"),
        (
            {"backbones": {"b": {"model": "RN50", "pretrained": "random"}}, "summary": {"grid": 15}},
            "summary.grid 15 is too fine for backbone 'b', which has 14 x 14 positions",
        ),
        ({"summary": {"grid": -1}}, "summary.grid: -1 is less than the minimum of 0"),
        ({"summary": "cls"}, "summary: 'cls' is not of type 'object'"),
        ({"variants": {"a": {"exits": [9]}}}, "expected some of blocks 1 to 7"),
        ({"variants": {"a": {"exits": "last_half"}}, "rate_targets": [0.45]}, "variant 'a'"),
        ({"calibration": ["transfer"]}, "calibration"),
    ],
)
def test_bad_values_get_one_line_that_names_them(changes, message):
    with pytest.raises(UserError) as error:
        complete_config(smoke(**changes), SCHEMA)
    assert message in str(error.value) and "\n" not in str(error.value)


OWN = {"source": "wds:x", "task": "zeroshot_classification"}
PAIRS = {"source": "hub:a/b", "task": "zeroshot_retrieval"}


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("flickr30", {}, "datasets.flickr30 has no source, and 'flickr30' is no given name; did you mean 'flickr30k'?"),
        ("own", {"source": "wds:x"}, "datasets.own has no task"),
        ("own", OWN | {"source": "hub:flickr30k"}, "datasets.own.source: 'hub:flickr30k' does not match"),
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
            OWN | {"splits": {"validation": "none"}},
            "has no validation images (splits.validation is 'none'); say",
        ),
        (
            "own",
            OWN | {"splits": {"test": "none"}},
            "splits.test is 'none', but only the training data set can do without",
        ),
        ("own", OWN | {"root": "/data"}, "datasets.own.root is for source 'hub:ORG/REPO' only"),
        ("own", OWN | {"revision": "v1"}, "datasets.own.revision is for source 'hub:ORG/REPO' only"),
        ("own", OWN | {"source": "tars:x"}, "source 'tars:FOLDER' holds captioned images"),
        ("own", OWN | {"jobs": {"test": 0}}, "datasets.own.jobs.test: 0 is less than the minimum of 1"),
        ("own", OWN | {"on_bad_sample": "skp"}, "did you mean 'skip'?"),
        ("digits", {"source": "demo", "task": OWN["task"], "splits": {"test": "test[:1]"}}, "a demo set has 'test'"),
        ("scenes", PAIRS | {"splits": {"validation": "none"}}, "the training data set needs validation images"),
        ("scenes", PAIRS | {"calibration": ["transfer"]}, "add 'in_domain'"),
    ],
)
def test_bad_entries_get_one_line_that_names_them(name, entry, message):
    config = smoke()
    config["datasets"] = config["datasets"] | {name: entry}
    with pytest.raises(UserError) as error:
        complete_config(config, SCHEMA)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_split_of_training_is_train():
    with pytest.raises(UserError, match="training.split 'trian' is no role of splits; did you mean 'train'"):
        complete_config(smoke(training={"dataset": "scenes", "split": "trian"}), SCHEMA)
    assert complete_config(smoke(training={"dataset": "scenes"}), SCHEMA)["training"]["split"] == "train"


def test_a_name_gives_what_is_left_out_and_nothing_else():
    config = smoke()
    config["datasets"] |= {"flickr30k": {"root": "/big"}, "pets": {"splits": {"validation": "train[:1]"}}}
    config["datasets"] |= {"imagenet1k": {"source": "wds:/i", "task": "zeroshot_classification"}}
    found = complete_config(config, SCHEMA)["datasets"]
    assert found["flickr30k"]["source"] == "hub:clip-benchmark/wds_flickr30k" and found["flickr30k"]["root"] == "/big"
    assert found["flickr30k"]["splits"] == {"train": "train[:4]", "validation": "train[4:]", "test": "test"}
    assert (
        found["pets"]["splits"] == {"validation": "train[:1]", "test": "test"} and found["pets"]["root"] == "data/pets"
    )
    assert found["imagenet1k"]["splits"] == {"validation": "validation", "test": "test"}, "a folder of one's own"
    assert found["scenes"]["splits"] == {"train": "train", "validation": "validation", "test": "test"}
    assert found["pets"]["calibration"] == ["in_domain", "transfer"]


def test_a_training_set_may_go_unreported():
    pairs = {"source": "tars:cc3m", "task": "zeroshot_retrieval"}
    pairs["splits"] = {"train": "[4:]", "validation": "[:4]", "test": "none"}
    config = smoke(training={"dataset": "cc3m"})
    config["datasets"] |= {"cc3m": pairs}
    assert complete_config(config, SCHEMA)["datasets"]["cc3m"]["splits"] == pairs["splits"]


def test_given_names_are_whole_and_on_their_page():
    page = (ROOT / "docs/adding-a-dataset.md").read_text()
    for name, entry in given().items():
        assert set(entry) - {"calibration"} == {"source", "revision", "task", "splits", "licence"}, name
        assert re.fullmatch(r"[0-9a-f]{40}|main", entry["revision"]), name
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` ")), "")
        assert entry["source"].removeprefix("hub:") in row and entry["licence"] in row, name
        assert entry["revision"][:7] in row, name
        config = smoke()
        config["datasets"] |= {name: {}}
        if entry["task"] == "zeroshot_retrieval":
            config["training"] = {"dataset": name}
        assert complete_config(config, SCHEMA)["datasets"][name]["revision"] == entry["revision"]


def test_equal_validation_and_test_are_refused():
    config = smoke()
    config["datasets"]["other"] = {"source": "wds:x", "task": "zeroshot_retrieval", "splits": {"validation": "test"}}
    with pytest.raises(UserError, match="datasets.other.splits: validation 'test' and test 'test' share shards"):
        complete_config(config, SCHEMA)


def test_numbers_from_the_command_line_arrive_as_text():
    config = complete_config(smoke(rate_targets=["0.6"], seeds=["3"], heads={"passes": "2"}), SCHEMA)
    assert (config["rate_targets"], config["seeds"], config["heads"]["passes"]) == ([0.6], [3], 2)


KNOWN = set(yaml.safe_load(SCHEMA.read_text())["properties"])


@every(st.text(min_size=1).filter(lambda key: key not in KNOWN))
def test_no_unknown_key_passes(key):
    with pytest.raises(UserError, match="unknown key"):
        complete_config(smoke(**{key: 1}), SCHEMA)


def _described(schema: dict, place: str = "config"):
    for key, part in schema.get("properties", {}).items():
        yield f"{place}.{key}", part
        yield from _described(part, f"{place}.{key}")
        if isinstance(part.get("additionalProperties"), dict):
            yield from _described(part["additionalProperties"], f"{place}.{key}.*")


def test_every_key_is_described_closed_and_in_the_readme():
    schema = yaml.safe_load(SCHEMA.read_text())
    readme = (ROOT / "configs/README.md").read_text()
    for place, part in _described(schema):
        if "$ref" in part:
            continue
        assert part.get("description", "").endswith("."), place
        assert part.get("type") != "object" or "additionalProperties" in part, place
        row = next(
            (line for line in readme.splitlines() if line.startswith(f"| `{place.removeprefix('config.')}` ")), ""
        )
        assert part["description"] in row, f"{place} in configs/README.md"
        if part.get("type") != "object" and "default" in part:
            default = part["default"]
            shown = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
            shown = shown.lower() if isinstance(default, bool) else shown
            assert f"| {shown} |" in row, f"default of {place} in configs/README.md"
