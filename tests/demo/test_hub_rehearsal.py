import io
import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from tgems.data.dataset_entries import given
from tgems.data.fetch import fetch_split
from tgems.data.webdataset import SplitFiles, read_prompts
from tgems.demo import hub_copies, hub_rehearsal, photographs
from tgems.demo.hub_copies import COPIES, repository, write_copy
from tgems.demo.hub_server import serve
from tgems.provenance import read_json
from tgems.workflow_config import complete_config

CONFIG = yaml.safe_load((ROOT / "configs/laptop.yaml").read_text())


def few(monkeypatch):
    """Make the copies smaller, with the same numbers of shards."""
    for name, copy in COPIES.items():
        small = hub_copies.SmallCopy(copy.shards, {"train": 2, "test": 3}, copy.classes, copy.size)
        monkeypatch.setitem(COPIES, name, small)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_in_the_hub_s_layout_and_the_same_each_time(tmp_path, monkeypatch, name):
    few(monkeypatch)
    for run in ("a", "b"):
        write_copy(name, tmp_path / run)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    task = given()[name]["task"]
    split = SplitFiles.of_folder(tmp_path / "a/train", task)
    assert len(split.shards) == COPIES[name].shards["train"]
    drawn = [s for shard in split.shards for s in split.read(shard)]
    assert len(drawn) == 2 * len(split.shards)
    opened = [Image.open(io.BytesIO(s.image)) for s in drawn]
    if task == "zeroshot_retrieval":
        assert {image.format for image in opened} == {"JPEG"}
        assert len({caption for s in drawn for caption in s.captions}) == 5 * len(drawn)
    else:
        assert {image.format for image in opened} == {"WEBP"}
        assert {s.label for s in drawn} <= set(range(len(read_prompts(tmp_path / "a").classnames)))


def test_a_copy_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    few(monkeypatch)
    write_copy("pets", tmp_path / "pets")
    before = (tmp_path / "pets/test/0.tar").stat().st_mtime_ns
    write_copy("pets", tmp_path / "pets")
    assert (tmp_path / "pets/test/0.tar").stat().st_mtime_ns == before


def test_the_laptop_s_sets_are_fetched_from_the_server_at_their_commits(tmp_path, monkeypatch):
    few(monkeypatch)
    for name in CONFIG["datasets"]:
        write_copy(name, tmp_path / "remote" / name)
    with serve({repository(name): tmp_path / "remote" / name for name in CONFIG["datasets"]}) as hub:
        hub.commits |= hub_rehearsal.pinned_commits(CONFIG)
        environment = hub_rehearsal.environment(hub, tmp_path)
        for name, entry in complete_config(CONFIG)["datasets"].items():
            for role, where in entry["splits"].items():
                if where != "none":
                    known = {key: entry[key] for key in ("source", "task", "revision")}
                    words = known | {"dataset": name, "split": role, "where": where, "root": str(tmp_path / name)}
                    words |= {"out": str(tmp_path / f"{name}-{role}/{role}.json")}
                    code = f"from tgems.data.fetch import {fetch_split.__name__} as f; f(**{words})"
                    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    receipt = read_json(tmp_path / "caltech101-test/test.json")
    assert receipt["commit"] == given()["caltech101"]["revision"]
    assert [s["path"] for s in read_json(tmp_path / "flickr8k-train/train.json")["shards"]] == [
        f"train/{i}.tar" for i in range(3)
    ]
    assert not any(key.startswith("HF_") and os.environ.get(key) == environment[key] for key in environment)


def test_only_sizes_differ_from_the_laptop_s_configuration():
    keys = {word.partition("=")[0] for word in hub_rehearsal.SIZES}
    assert not keys & {"backbones", "datasets", "training", "policies", "results"}
    for word in hub_rehearsal.SIZES:
        value = yaml.safe_load(word.partition("=")[2])
        numbers = value.values() if isinstance(value, dict) else value
        assert all(isinstance(number, int | float) for number in numbers), word


def test_images_are_photo_sized_jpegs_with_something_on_them():
    drawn = list(islice(photographs.samples("classification", "test", 20, 0), 20))
    assert {s.label for s in drawn} <= set(range(10))
    opened = [Image.open(io.BytesIO(s.image)) for s in drawn]
    assert {image.size for image in opened} == {(500, 375), (375, 500)}
    assert all(image.format == "JPEG" and image.mode == "RGB" for image in opened)
    brightest = [np.percentile(np.asarray(image).max(-1), 99.5) for image in opened]
    assert min(brightest) > 140, "a digit stands out from the background"
