import io
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

from tgems.data.pack import pack
from tgems.data.webdataset import SplitFiles, read_prompts
from tgems.errors import UserError


@pytest.fixture
def images(tmp_path):
    """Six images of three formats in two folders, and a table of their classes."""
    folder = tmp_path / "images"
    rows = ["path,class"]
    for i, (name, suffix) in enumerate([("cat", "png"), ("dog", "jpg"), ("dog", "webp")] * 2):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(folder / name / f"{i}.{suffix}")
        rows.append(f"{name}/{i}.{suffix},{name}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def samples(folder, task="zeroshot_classification"):
    split = SplitFiles.of_folder(folder, task)
    return [sample for shard in split.shards for sample in split.read(shard)]


def test_images_are_copied_unchanged(images, tmp_path):
    assert pack(images, tmp_path / "table.csv", tmp_path / "out", "test", label_column="class", shard_size=4) == 6
    got = samples(tmp_path / "out/test")
    assert [s.key for s in got] == [f"s{i:07d}" for i in range(6)] and [s.label for s in got] == [0, 1, 1] * 2
    assert got[1].image == (images / "dog/1.jpg").read_bytes() and got[1].suffix == "jpg"
    prompts = read_prompts(tmp_path / "out")
    assert prompts.classnames == ("cat", "dog") and prompts.templates == ("a photo of a {c}.",)
    assert (tmp_path / "out/test/nshards.txt").read_text() == "2\n"


def test_rows_of_one_image_are_its_captions(images, tmp_path):
    (tmp_path / "table.csv").write_text('file,text\ncat/0.png,a cat\ndog/1.jpg,"a dog,\nsmall"\ncat/0.png,two ears\n')
    pack(images, tmp_path / "table.csv", tmp_path / "out", "test", image_column="file", caption_column="text")
    assert [s.captions for s in samples(tmp_path / "out/test", "zeroshot_retrieval")] == [
        ("a cat", "two ears"),
        ("a dog, small",),
    ]
    assert (tmp_path / "out/dataset_type.txt").read_text() == "retrieval\n"


def test_clip_benchmark_reads_what_was_packed(images, tmp_path):
    from clip_benchmark.datasets.builder import build_dataset

    pack(images, tmp_path / "table.csv", tmp_path / "out", "test", label_column="class", shard_size=4)
    options = {"root": str(tmp_path / "out"), "split": "test", "transform": lambda image: image.convert("RGB").size}
    theirs = build_dataset(dataset_name="wds/own", task="zeroshot_classification", **options)
    assert [(size, int(label)) for size, label in theirs] == [((8, 6), i) for i in [0, 1, 1] * 2]
    assert theirs.classes == ["cat", "dog"]

    (tmp_path / "captions.csv").write_text("path,text\ncat/0.png,a cat\ncat/0.png,ears\ndog/1.jpg,a dog\n")
    pack(images, tmp_path / "captions.csv", tmp_path / "two", "test", caption_column="text")
    theirs = build_dataset(
        dataset_name="wds/two", task="zeroshot_retrieval", **options | {"root": str(tmp_path / "two")}
    )
    assert [tuple(texts) for _, texts in theirs] == [("a cat", "ears"), ("a dog",)]


def test_a_second_split_keeps_the_class_numbers(images, tmp_path):
    pack(images, tmp_path / "table.csv", tmp_path / "out", "test", label_column="class")
    (tmp_path / "dogs.csv").write_text("path,class\ndog/1.jpg,dog\n")
    pack(images, tmp_path / "dogs.csv", tmp_path / "out", "validation", label_column="class")
    assert [s.label for s in samples(tmp_path / "out/validation")] == [1]
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match="out/classnames.txt: another split was packed with other entries than .*names"):
        pack(
            images,
            tmp_path / "dogs.csv",
            tmp_path / "out",
            "more",
            label_column="class",
            classnames=tmp_path / "names.txt",
        )
    with pytest.raises(UserError, match="for 'classification', but this split is for 'retrieval'"):
        pack(images, tmp_path / "dogs.csv", tmp_path / "out", "more", caption_column="class")
    assert not (tmp_path / "out/more").exists()


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("", {}, "empty; expected a line of column names"),
        ("path,class\n", {}, "empty; expected a row per image"),
        ("path,clas\ncat/0.png,cat\n", {}, "there is no column 'class'; did you mean 'clas'?"),
        ("path,class\ncat/0.png,cat\ncat/9.png,cat\n", {}, "table.csv: row 3: there is no image .*cat/9.png"),
        ("path,class\ncat/0.gif,cat\n", {}, "row 2: 'cat/0.gif' is not an image file"),
        ("path,class\nbad.png,cat\n", {}, "row 2: image .*bad.png cannot be read"),
        ("path,class\ncat/0.png,\n", {}, "row 2: column 'class' is empty"),
        ("path,class\ncat/0.png,cat\ncat/0.png,dog\n", {}, "row 3: image 'cat/0.png' already has a class, in row 2"),
        ("path,class\ncat/0.png,catt\n", {"classnames": "cat\ndog\n"}, "row 2: class 'catt' .* did you mean 'cat'"),
        ("path,class\ncat/0.png,cat\n", {"classnames": "cat\ncat\n"}, "class 'cat' is listed twice"),
        ("path,class\ncat/0.png,cat\n", {"templates": "a photo\n"}, "templates: line 1, 'a photo', has no {c}"),
        ("path,class\ncat/0.png,cat\n", {"classnames": "cat\n\ndog\n"}, "classnames: line 2 is empty"),
        ("path,class\ncat/0.png,a cat, grey\n", {}, "rows have more cells than there are column names"),
        ("path,class\ncat/0.png,cat\ncat/0.png,a,b\n", {}, "table.csv: cannot be read .*; expected a CSV in UTF-8"),
        ('path,class\n"cat/0.png,cat\n', {}, "table.csv: cannot be read .*; expected a CSV in UTF-8"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(images, tmp_path, table, options, message):
    (images / "bad.png").write_bytes(b"garbage")
    (tmp_path / "table.csv").write_text(table)
    for name, text in options.items():
        (tmp_path / name).write_text(text)
    files = {name: tmp_path / name for name in options}
    with pytest.raises(UserError, match=message) as error:
        pack(images, tmp_path / "table.csv", tmp_path / "out", "test", label_column="class", **files)
    assert "\n" not in str(error.value) and not (tmp_path / "out/test").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff", "cannot be read .*; delete it"), (b"", "is for '', but"), (b"both\x1b\n", r"is for 'both\\x1b', but")],
)
def test_an_odd_type_of_the_data_set_is_named(images, tmp_path, content, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dataset_type.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"out/dataset_type.txt: .*{message}"):
        pack(images, tmp_path / "table.csv", tmp_path / "out", "test", label_column="class")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset_type.txt"]


def test_the_page_shows_a_command_that_works(tmp_path):
    page = (ROOT / "docs/adding-a-dataset.md").read_text()
    table = re.search(r"```csv\n(.*?)```", page, re.S)[1]
    (tmp_path / "fruit/images").mkdir(parents=True)
    (tmp_path / "fruit/test.csv").write_text(table)
    for line in table.splitlines()[1:]:
        image = io.BytesIO()
        Image.new("RGB", (9, 9), "red").save(image, "JPEG")
        (tmp_path / "fruit/images" / line.split(",")[0]).write_bytes(image.getvalue())
    command = shlex.split(next(line for line in page.splitlines() if line.startswith("python -m tgems.data.pack")))
    run = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"data/fruit/test: {len(table.splitlines()) - 1} images\n"
    assert read_prompts(tmp_path / "data/fruit").classnames == ("apple", "pear")
    bad = subprocess.run(
        [sys.executable, *command[1:], "--image-column", "file"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        bad.returncode == 1
        and bad.stderr.count("\n") == 1
        and bad.stderr.startswith("error: fruit/test.csv: there is no")
    )
