import csv
import io
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tgems.data.own_division import divided, groups_of
from tgems.data.own_images import own_dataset
from tgems.data.own_packing import left_out
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


def image(color):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(data, "PNG")
    return data.getvalue()


def tars(folder, count, captions):
    for number in range(count):
        made = [Sample(f"{i:03d}", image((number, i, 0)), "png", captions=captions) for i in range(10)]
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


def roles(entry):
    """Role of each image, by its bytes; a list if it is in several."""
    found = {}
    for role, part in samples(entry).items():
        for sample in part:
            found.setdefault(sample.image, set()).add(role)
    return found


@pytest.mark.parametrize("columns", ["path,group", "caption,Path, Group "])
def test_a_group_is_in_one_split_and_is_the_source_of_its_images(folder, tmp_path, columns):
    named = sorted(folder.rglob("*.png"))
    shutil.copy(named[0], folder / "same.png")  # joins what belongs to no group to group g0
    rows = [
        (path.relative_to(folder), "" if i == 29 else f"g{i // 2 if i < 20 else i}") for i, path in enumerate(named)
    ]
    with_captions = columns.startswith("caption")
    lines = [
        f"a photo {i},{path},{group}" if with_captions else f"{path},{group}" for i, (path, group) in enumerate(rows)
    ]
    lines += ["another,same.png,"] if with_captions else []
    (folder / "captions.csv").write_text("\n".join([columns, *lines]))
    entry = own_dataset(str(folder), tmp_path / "out")
    found = roles(entry)
    assert all(len(role) == 1 for role in found.values()), "images with identical bytes are in one split"
    for i in range(0, 20, 2):
        assert found[named[i].read_bytes()] == found[named[i + 1].read_bytes()]
    assert sum(map(len, samples(entry).values())) == 31, "images without a row are used too"
    sources = {}
    for sample in (sample for part in samples(entry).values() for sample in part):
        sources.setdefault(str(sample.metadata.get("sources")), []).append(sample.image)
    assert len(sources.pop("None")) == 10 and sorted(map(len, sources.values())) == [2] * 9 + [3]
    assert entry["task"] == ("zeroshot_retrieval" if with_captions else "self_retrieval")


def test_identical_images_without_a_table_are_in_one_split(folder, tmp_path):
    for path in folder.rglob("*.png"):
        shutil.copy(path, path.with_suffix(".copy.png"))
    assert all(len(role) == 1 for role in roles(own_dataset(str(folder), tmp_path / "out")).values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=20, max_size=120), st.integers(0, 3))
def test_divided_groups_stay_whole_and_each_image_is_used_once(names, seed):
    groups = groups_of([str(name) for name in names], list(range(len(names))), lambda place: b"")
    assert all((names[i] == names[j]) == (groups[i] == groups[j]) for i in range(20) for j in range(20))
    try:
        parts = divided(groups, seed, "here")
    except UserError as error:
        assert len(set(names)) < 20 or "too large" in str(error)
        return
    assert sorted(place for part in parts.values() for place in part) == list(range(len(names)))
    roles_of = {}
    for role, part in parts.items():
        for place in part:
            roles_of.setdefault(names[place], set()).add(role)
    assert all(len(role) == 1 for role in roles_of.values())
    held, largest = len(names) // 5, max(names.count(name) for name in names)
    assert all(4 <= len(parts[role]) < held + largest for role in ("validation", "test"))


@pytest.mark.parametrize("captions", [True, False, "tars"])
def test_images_that_cannot_be_read_are_left_out_and_listed(folder, tmp_path, captions):
    if captions == "tars":
        (tmp_path / "in").mkdir()
        made = [Sample(f"{i:03d}", b"hello" if i == 3 else image((i, 0, 0))) for i in range(30)]
        write_split(made, tmp_path / "one", 30)
        (tmp_path / "one/0.tar").rename(tmp_path / "in/0.tar")
        source, bad = f"tars:{tmp_path / 'in'}", "0.tar::003"
    else:
        if captions:
            captioned(folder)
        (folder / "000.png").write_bytes(b"hello")
        source, bad = str(folder), "000.png"
    with pytest.raises(UserError, match=rf"{bad}: cannot be read \(.*\); correct it, or leave it out with --skip-bad"):
        own_dataset(source, tmp_path / "out")
    entry = own_dataset(source, tmp_path / "out", skip_bad=True)
    assert sum(map(len, samples(entry).values())) == N - 1
    for _ in range(2):  # also when nothing is packed anew
        ((name, reason),) = left_out(tmp_path / "out")
        assert name.endswith(bad) and reason.startswith("cannot be read (not an image")
        assert own_dataset(source, tmp_path / "out", skip_bad=True) == entry
    with pytest.raises(UserError, match="cannot be read"):
        own_dataset(source, tmp_path / "out")


def test_images_that_are_not_used_are_counted(folder, tmp_path):
    captioned(folder)
    (folder / "later.HEIC").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(folder / "new.png")
    notes = []
    own_dataset(str(folder), tmp_path / "out", note=notes.append)
    assert [note.split(" in ")[0] for note in notes] == ["not used: 1 .heic", "not used: 1 of 31 images"]


TABLES = {
    "path;caption\n000.png;a": "its columns are separated by semicolons; save it as CSV with commas",
    "path\tcaption\n000.png\ta": "separated by tabs",
    "path\n000.png": "there is no column 'caption'",
    "path,caption\n000.png,\n": "row 2: column 'caption' is empty",
    "path,caption\n000.png,a\n003.png,a": "all captions are 'a', which tells no image from another",
    "path,group\n000.png,a\n./000.png,b": "row 2: image .*000.png is in group 'a' and, in another row, in 'b'",
    "path,group\ngone.png,a": "row 2: image .*gone.png: there is no such image; correct it",
    "path,group\n000.gif,a": "row 2: image .*000.gif: not an image file",
    "path,group\n"
    + "".join(f"{i:03d}.png,a\n" for i in range(0, N, 3))
    + "".join(
        f"below/{i:03d}.png,b\n" for i in range(N) if i % 3
    ): "holds 30 images in 2 groups, since images with a common group or identical bytes stay together",
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_that_cannot_be_used_are_one_line(folder, tmp_path, table):
    (folder / "captions.csv").write_text(table)
    with pytest.raises(UserError, match=TABLES[table]) as caught:
        own_dataset(str(folder), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out/packed.json").exists()


def test_bad_images_end_with_one_line(folder, tmp_path):
    def fails(message, images=folder, **options):
        with pytest.raises(UserError, match=message) as caught:
            own_dataset(str(images), tmp_path / "out", **options)
        assert "\n" not in str(caught.value)

    fails("no such folder; write FOLDER", tmp_path / "none")
    fails("no .tar file in this folder", f"tars:{folder}")
    fails("is for a folder of image files", f"wds:{folder}", captions=folder / "c.csv")
    (tmp_path / "empty").mkdir()
    fails("no image .* in this folder, or below it; check the name", tmp_path / "empty")
    (tmp_path / "empty/a.HEIC").write_bytes(b"")
    fails("convert 1 .heic to JPEG or PNG", tmp_path / "empty")
    fails("--images '': there is no such folder", "")
    (folder / "few").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "few/a.png")
    fails("holds 1 images; training and testing a T-GEM takes 20", folder / "few")
    captioned(folder, ("where", "caption"))
    fails("captions.csv: there is no column 'path'")
    (folder / "captions.csv").unlink()
    (folder / "000.png").write_bytes(b"no image")
    fails("000.png: cannot be read")
    (folder / "captions.csv").mkdir()
    fails("captions.csv: a folder, not a file")
    (folder / "captions.csv").rmdir()
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    fails("holds 31 images in 1 groups")
    for i, path in enumerate(folder.rglob("*.png")):
        path.write_bytes(b"no image" * (i + 1))
    fails("none of 19 images for train can be read", skip_bad=True)
    assert not (tmp_path / "out/packed.json").exists()
