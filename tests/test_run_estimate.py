"""Test that `tgems estimate` counts and times what a configuration takes."""

import re

import pytest
import torch
import yaml
from conftest import ROOT
from runtime.test_cli import tgems
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tgems.architectures.catalog import architecture
from tgems.backbones.load import load_backbone
from tgems.costs.closed_form import text_macs
from tgems.data.webdataset import SplitFiles
from tgems.demo.datasets import generate_split
from tgems.errors import UserError
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding
from tgems.run_estimate import CountedWorkload, Stage, read_configuration, stages
from tgems.throughput import Throughput

CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
SPEED = Throughput.given(38e9)


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def work(name, tmp_path, **changes):
    """Work of a shipped configuration with some keys changed."""
    (tmp_path / "changes.yaml").write_text(yaml.safe_dump(changes or {"results": "results/other"}))
    return CountedWorkload(read_configuration([ROOT / f"configs/{name}.yaml", tmp_path / "changes.yaml"]))


def by_name(workload, speed=SPEED):
    return {stage.name: stage for stage in stages(workload, speed)}


@pytest.mark.parametrize("entry", [{"pretrained": "local-dir:assets/backbones/demo-vit-8"}, {"model": "ViT-B-32"}])
def test_macs_of_a_text_are_those_of_torch_s_counter(entry):
    backbone = load_backbone({"pretrained": "random"} | entry)
    tokens = backbone.tokenizer(["a red four"])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.model.encode_text(tokens)
    assert 2 * text_macs(backbone.architecture.model_dump(exclude_unset=True)) == counter.get_total_flops()


def test_a_text_tower_of_transformers_has_no_closed_form():
    assert text_macs(architecture("roberta-ViT-B-32")) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_configuration_has_an_estimate(name):
    output = tgems("estimate", ROOT / "configs" / name, "--cores", 4, "--gmacs-per-second", 38)
    rows = {row[0]: row[1:] for line in output.splitlines() if (row := re.split(r"  +", line.strip()))}
    total = [float(number.replace(",", "")) for number in rows["total"]]
    assert len(total) == 4 and total[1] >= total[2] > 0, "GMACs, core hours, hours, disk"
    assert "hours on 4 cores" in output and rows["encode images"][0] != "0"


def test_the_laptop_s_hour_and_disk(tmp_path):
    found = by_name(work("laptop", tmp_path))
    assert found["encode images"].images == found["download"].images == 4500 + 1500 + 1000 + 20_000 + 9_144 + 3_669
    assert found["encode texts"].texts == 5 * 7000 + 2 * (180 + 3468) + 37
    assert found["encode images"].macs == pytest.approx(4.41e9 * found["encode images"].images, rel=2e-3)
    assert sum(stage.seconds(8) for stage in found.values()) < 3600
    assert sum(stage.disk_mb for stage in found.values()) < 6000


def test_an_own_set_is_counted_where_it_is_and_else_named(tmp_path):
    own = {"own": {"source": f"wds:{tmp_path}/own", "task": "zeroshot_retrieval"}}
    config = {"datasets": own, "training": {"dataset": "own"}}
    missing = work("smoke", tmp_path, **config)
    assert missing.unknown == ["own/train", "own/validation", "own/test"]
    assert by_name(missing)["train heads"].images == 0, "nothing is guessed"
    for split, n in (("train", 30), ("validation", 12), ("test", 7)):
        generate_split("scenes", split, n, 0, tmp_path / "own" / split, 10)
    found = work("smoke", tmp_path, **config)
    assert not found.unknown and by_name(found)["train heads"].images == 30
    hub = {
        "source": "hub:me/own",
        "root": f"{tmp_path}/own",
        "splits": {"train": "train[:2]", "validation": "train[2:]"},
    }
    fetched = config | {"datasets": {"own": {"task": "zeroshot_retrieval"} | hub}}
    assert work("smoke", tmp_path, **fetched).images("own", "train") == 20
    (tmp_path / "own/train/2.tar").unlink()
    partly = work("smoke", tmp_path, **fetched)
    assert partly.images("own", "train") == 20 and partly.unknown == ["own/validation"]
    generate_split("scenes", "train", 30, 0, tmp_path / "own/train", 10)
    (tmp_path / "changes.yaml").write_text(yaml.safe_dump(config).replace(str(tmp_path), str(tmp_path / "none")))
    output = tgems("estimate", "configs/smoke.yaml", tmp_path / "changes.yaml", "--gmacs-per-second", 38)
    assert "counted once they are here: own/train, own/validation, own/test" in output


def test_disk_of_features_is_that_of_the_files(demo_backbone, demo_data, tmp_path):
    split, out = SplitFiles.of_folder(demo_data / "digits/test", "zeroshot_classification"), tmp_path / "f"
    extract_features(demo_backbone, split, out, Encoding(dtype="float16"))
    written = sum(path.stat().st_size for path in tmp_path.rglob("[0-9]*.safetensors"))
    size = work("smoke", tmp_path).sizes("demo-vit-8", "default")
    assert written / 1e6 == pytest.approx(size.stored_mb(70, 2), rel=0.05)


def test_more_cores_help_until_the_longest_job():
    stage = Stage("s")
    stage.add(100.0, jobs=3)
    stage.add(60.0, threads=2)
    assert [stage.seconds(cores) for cores in (1, 2, 3, 8)] == [360, 180, 120, 100]
    assert Stage("nothing").seconds(1) == 0


def test_twice_the_throughput_takes_half_of_the_time_of_products(tmp_path):
    slow, fast = (by_name(work("laptop", tmp_path), Throughput.given(rate)) for rate in (1e9, 2e9))
    for name in ("encode texts", "train heads", "train gates"):
        assert sum(slow[name].jobs) == pytest.approx(2 * sum(fast[name].jobs)), name
    assert slow["encode images"].macs == fast["encode images"].macs


def test_throughput_is_measured_without_network_and_weights(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    output = tgems("estimate", "configs/smoke.yaml", "--seconds", 1)
    rates = re.search(r"measured with demo-vit-8: encodes with ([\d.]+) .* trains with ([\d.]+); a job", output)
    assert all(float(rate) > 0.1 for rate in rates.groups())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "none.yaml: no such file"),
        ("a: [", "x.yaml: not YAML"),
        ("- 1", "x.yaml: holds no keys"),
        ("seeds: [0]\nseeds: [1]", "x.yaml, line 2: key 'seeds' is also in line 1"),
        ("sedes: [0]", "unknown key 'sedes' at the top level; did you mean 'seeds'?"),
    ],
)
def test_a_bad_configuration_ends_with_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_configuration([tmp_path / ("none.yaml" if text is None else "x.yaml")])
    assert message in str(error.value) and "\n" not in str(error.value)
