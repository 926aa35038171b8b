import csv

import numpy as np
import pytest
from PIL import Image

from tgems.data.own_images import own_dataset
from tgems.data.webdataset import Sample, SplitFiles, write_split
from tgems.errors import UserError
from tgems.workflow_config import complete_config

N = 30


@pytest.fixture
def folder(tmp_path):
    """Folder of 30 distinct images, some of them in a folder below."""
    for i in range(N):
        path = tmp_path / "photos" / ("below" if i % 3 else "") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    return tmp_path / "photos"


def captioned(folder, columns=("path", "caption")):
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *((name, f"{name}, {k}") for name in names for k in range(2))])


def samples(entry):
    """Samples of each split."""
    root = entry["source"].removeprefix("wds:")
    found = {}
    for role in ("train", "validation", "test"):
        split = SplitFiles.of_folder(f"{root}/{role}", entry["task"])
        found[role] = [sample for shard in split.shards for sample in split.read(shard)]
    return found


def completed(entry):
    run = {"seeds": [0], "rate_targets": [0.6], "datasets": {"photos": entry}, "training": {"dataset": "photos"}}
    return complete_config(run | {"backbones": {"b": {"model": "ViT-B-32", "pretrained": "random"}}})


def test_images_without_captions_are_divided_and_each_is_in_one_split(folder, tmp_path):
    entry = own_dataset(str(folder), tmp_path / "out", shards=3)
    parts = samples(entry)
    assert entry["task"] == "self_retrieval" and {role: len(p) for role, p in parts.items()} == {
        "train": 18,
        "validation": 6,
        "test": 6,
    }
    images = sorted(sample.image for part in parts.values() for sample in part)
    assert images == sorted(path.read_bytes() for path in folder.rglob("*.png"))
    keys = [sample.key for part in parts.values() for sample in part]
    assert len(set(keys)) == N and len(list((tmp_path / "out/train").glob("*.tar"))) == 3
    completed(entry)


@pytest.mark.parametrize("columns", [("path", "caption"), ("file_name", "text"), ("image", "title")])
def test_captions_stay_with_their_image(folder, tmp_path, columns):
    captioned(folder, columns)
    entry = own_dataset(str(folder), tmp_path / "out")
    parts = samples(entry)
    assert entry["task"] == "zeroshot_retrieval" and sum(map(len, parts.values())) == N
    for sample in (sample for part in parts.values() for sample in part):
        name, number = sample.captions[0].rsplit(", ", 1)
        assert sample.captions == (f"{name}, 0", f"{name}, 1") and number == "0"
        assert sample.image == (folder / name).read_bytes()


def test_packed_images_are_kept_until_an_image_changes(folder, tmp_path):
    first = own_dataset(str(folder), tmp_path / "out")
    before = (tmp_path / "out/train/0.tar").stat().st_mtime_ns
    assert own_dataset(str(folder), tmp_path / "out") == first
    assert (tmp_path / "out/train/0.tar").stat().st_mtime_ns == before
    Image.new("RGB", (9, 9)).save(next(folder.glob("*.png")))
    own_dataset(str(folder), tmp_path / "out")
    assert (tmp_path / "out/train/0.tar").stat().st_mtime_ns > before


def tars(folder, count, captions):
    for number in range(count):
        made = [
            Sample(f"{i:03d}", np.random.default_rng([number, i]).bytes(9), "jpg", captions=captions) for i in range(10)
        ]
        write_split(made, folder / str(number), 10)
        (folder / str(number) / "0.tar").rename(folder / f"{number:05d}.tar")


def test_many_tars_are_divided_by_whole_tars(tmp_path):
    tars(tmp_path / "in", 6, ("a dog",))
    entry = own_dataset(f"tars:{tmp_path / 'in'}", tmp_path / "out")
    assert entry["splits"] == {"train": "[:4]", "validation": "[4:5]", "test": "[5:]"}
    assert entry["source"] == f"tars:{tmp_path / 'in'}" and entry["task"] == "zeroshot_retrieval"
    assert not (tmp_path / "out").exists()
    completed(entry)


@pytest.mark.parametrize("captions", [("a dog",), ()])
def test_few_tars_are_divided_by_images(tmp_path, captions):
    tars(tmp_path / "in", 3, captions)
    entry = own_dataset(f"tars:{tmp_path / 'in'}", tmp_path / "out")
    parts = samples(entry)
    assert entry["task"] == ("zeroshot_retrieval" if captions else "self_retrieval")
    assert len({sample.image for part in parts.values() for sample in part}) == N
    assert all(sample.captions == captions for part in parts.values() for sample in part)


def test_data_sets_on_the_hub_keep_what_is_known_of_them():
    known = own_dataset("hub:clip-benchmark/wds_flickr8k", None)
    assert known == own_dataset("flickr8k", None) and known["splits"]["train"] == "train[:3]"
    assert own_dataset("hub:me/photos", None) == {"source": "hub:me/photos", "task": "zeroshot_retrieval"}
    with pytest.raises(UserError, match="'cifar10': holds classes, not captions"):
        own_dataset("cifar10", None)


def test_bad_images_end_with_one_line(folder, tmp_path):
    def fails(message, images=folder, **options):
        with pytest.raises(UserError, match=message) as caught:
            own_dataset(str(images), tmp_path / "out", **options)
        assert "\n" not in str(caught.value)

    fails("no such folder; write FOLDER", tmp_path / "none")
    fails("no .tar file in this folder", f"tars:{folder}")
    fails("is for a folder of image files", f"wds:{folder}", captions=folder / "c.csv")
    (tmp_path / "empty").mkdir()
    fails("no image .* in this folder", tmp_path / "empty")
    (folder / "few").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "few/a.png")
    fails("holds 1 images; training and testing a T-GEM takes 20", folder / "few")
    captioned(folder, ("where", "caption"))
    fails("captions.csv: there is no column 'path'")
    (folder / "captions.csv").unlink()
    (folder / "000.png").write_bytes(b"no image")
    fails("000.png: cannot be read")
    assert not (tmp_path / "out/packed.json").exists()
