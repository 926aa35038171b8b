"""Data sets that cannot be used end jobs with one line; bad samples are skipped in features and gallery alike."""

from types import SimpleNamespace

import numpy as np
import pytest
from faults.breaking import break_, cases, check_line
from PIL import Image

from tgems.data.fetch import fetch_split
from tgems.data.webdataset import Prompts, SplitFiles, write_prompts
from tgems.errors import UserError
from tgems.evaluation.gallery import gallery
from tgems.features.cache import load_features
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding

CASES = cases("datasets")
TASKS = ("zeroshot_classification", "zeroshot_retrieval")


@pytest.fixture
def data(tmp_path):
    """A data set for both tasks."""
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photo.png")
    write_prompts(tmp_path / "data", Prompts(("cat", "dog"), ("a {c}",)))
    break_(tmp_path / "data", [{"text": "test/nshards.txt", "is": "1\n"}, *sample_tar({})])
    return tmp_path / "data"


def sample_tar(changes):
    """The operation that writes the shard, with members of sample `b` changed or taken away."""
    members = []
    for key in ("a", "b"):
        parts = {"png": {"copy": "../../photo.png"}, "cls": {"text": "1"}, "txt": {"text": "one\ntwo\n"}}
        parts |= {k: v for k, v in changes.items() if k not in ("members", "key")} if key == "b" else {}
        name = changes.get("key", key) if key == "b" else key
        members += [{"name": f"{name}.{suffix}"} | part for suffix, part in parts.items() if part is not None]
    return [{"tar": "test/0.tar", "members": members}]


def broken(data, case):
    """Break the data set as a case says; return the task, and the function that reads the data set as the jobs do."""
    for operation in case["do"]:
        break_(data, sample_tar(operation) if "members" in operation and "tar" not in operation else [operation])
    task = case.get("task", TASKS[0])

    def read(backbone, on_bad_sample):
        receipt, out = data.parent / "own.json", data.parent / "features"
        fetch_split("own", "test", f"wds:{data}", "test", task, receipt)
        split = SplitFiles.of(receipt, task)
        extract_features(backbone, split, out, Encoding(on_bad_sample=on_bad_sample))
        return load_features(out), split

    return read


@pytest.mark.parametrize("case", CASES)
def test_a_bad_data_set_is_named_on_one_line(demo_backbone, data, case):
    read = broken(data, case)
    with pytest.raises(UserError) as error:
        read(demo_backbone, "fail")
    check_line(str(error.value), case)
    assert not (data.parent / "features").exists() and not list(data.parent.rglob("*partial*"))


def shown(features, split):
    """The gallery of all images, which leave at the first exit."""
    row = SimpleNamespace(about={"policy": "tgem", "rate_target": 0.5}, exits=np.zeros(len(features.samples), int))
    return gallery(row, features, (1, 8), split)


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].get("one_sample")])
def test_a_bad_sample_is_skipped_in_features_and_gallery_alike(demo_backbone, data, case):
    features, split = broken(data, case)(demo_backbone, "skip")
    assert features.samples["key"].tolist() == ["a"] and len(features.manifest["skipped"]) == 1
    found = shown(features, split)
    assert found["key"].tolist() == ["a"]
    assert found["text"].tolist() == ["one" if split.task == TASKS[1] else "dog"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("unread", [{}, {"cls": {"text": "cat"}, "txt": {"hex": "e9"}}])
def test_a_task_needs_only_its_own_members(demo_backbone, data, task, unread):
    """A retrieval set may have `.cls` and no class names, and a classification set may have captions in Latin-1."""
    own = "cls" if task == TASKS[0] else "txt"
    if task == TASKS[1]:
        break_(data, [{"delete": "classnames.txt"}])
    case = {"task": task, "do": [{"members": "b"} | {k: v for k, v in unread.items() if k != own}]}
    features, split = broken(data, case)(demo_backbone, "fail")
    assert features.samples["key"].tolist() == ["a", "b"] and ("label" in features.samples) == (task == TASKS[0])
    assert shown(features, split)["text"].tolist() == ["dog" if task == TASKS[0] else "one"] * 2


def test_a_key_that_was_skipped_in_one_shard_is_shown_from_the_other(demo_backbone, data):
    break_(data, [
        {"text": "test/nshards.txt", "is": "2"},
        {"copy": "test/0.tar", "to": "1.tar"},
        *sample_tar({"png": {"text": "no image"}}),
        {"tar": "test/1.tar", "members": [
            {"name": "b.png", "copy": "../../photo.png"}, {"name": "b.cls", "text": "0"},
        ]},
    ])  # fmt: skip
    features, split = broken(data, {"do": []})(demo_backbone, "skip")
    assert shown(features, split)[["key", "text"]].to_numpy().tolist() == [["a", "dog"], ["b", "cat"]]


@pytest.mark.parametrize(
    "name", ["a::b", "pipe:touch ran", "a b", "{0..3}", "50%", "#1", "ünï", "x;touch ran", "$(touch ran)", "file:"]
)
def test_a_folder_may_have_any_name(demo_backbone, data, name, monkeypatch):
    monkeypatch.chdir(data.parent)
    data.rename(data.parent / name)
    features, split = broken(data.parent / name, {"do": []})(demo_backbone, "fail")
    assert shown(features, split)["key"].tolist() == ["a", "b"] and not list(data.parent.rglob("ran"))
