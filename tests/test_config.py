import copy

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tgems.config import complete_config
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
    assert config["heads"]["hidden"] > 0 and config["evaluation"]["bootstrap_resamples"] > 0
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
        ({"backbones": {"b": {"pretrained": "local-dir:assets/none"}}}, "assets/none/open_clip_config.json does not"),
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
        ({"variants": {"a": {"exits": [9]}}}, "expected some of blocks 1 to 7"),
        ({"variants": {"a": {"exits": "last_half"}}, "rate_targets": [0.45]}, "variant 'a'"),
        ({"calibration": ["transfer"]}, "calibration"),
    ],
)
def test_bad_values_get_one_line_that_names_them(changes, message):
    with pytest.raises(UserError) as error:
        complete_config(smoke(**changes), SCHEMA)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_equal_validation_and_test_are_refused():
    config = smoke()
    config["datasets"]["other"] = {"source": "wds:x", "task": "zeroshot_retrieval", "splits": {"validation": "test"}}
    with pytest.raises(UserError, match="datasets.other.splits: validation 'test' and test 'test' share shards"):
        complete_config(config, SCHEMA)


def test_numbers_from_the_command_line_arrive_as_text():
    config = complete_config(smoke(rate_targets=["0.6"], seeds=["3"], heads={"passes": "2"}), SCHEMA)
    assert (config["rate_targets"], config["seeds"], config["heads"]["passes"]) == ([0.6], [3], 2)


@given(st.text(min_size=1).filter(lambda s: s not in yaml.safe_load(SCHEMA.read_text())["properties"]))
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
            shown = ", ".join(default) if isinstance(default, list) else str(default)
            shown = shown.lower() if isinstance(default, bool) else shown
            assert f"| {shown} |" in row, f"default of {place} in configs/README.md"
