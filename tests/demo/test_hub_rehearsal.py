import io
from itertools import islice

import numpy as np
from PIL import Image

from tgems.data.webdataset import SplitFiles, read_prompts
from tgems.demo import rehearsal


def test_both_sets_are_in_the_hubs_layout_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "RETRIEVAL", {"train": 12, "validation": 6, "test": 7})
    monkeypatch.setattr(rehearsal, "CLASSIFICATION", {"train": 7, "test": 6})
    for run in ("a", "b"):
        rehearsal.write_rehearsal(tmp_path / run)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len([f for f in files if f.suffix == ".tar"]) == 3 * 5
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    split = SplitFiles.of_folder(tmp_path / "a/rehearsal_retrieval/train", "zeroshot_retrieval")
    drawn = [s for shard in split.shards for s in split.read(shard)]
    assert len(drawn) == 12 and all(len(s.captions) == 5 for s in drawn)
    assert len({caption for s in drawn for caption in s.captions}) == 5 * 12
    assert len(read_prompts(tmp_path / "a/rehearsal_classification").classnames) == 10


def test_images_are_photo_sized_jpegs_with_something_on_them():
    drawn = list(islice(rehearsal.samples("classification", "test", 20, 0), 20))
    assert {s.label for s in drawn} <= set(range(10))
    opened = [Image.open(io.BytesIO(s.image)) for s in drawn]
    assert {image.size for image in opened} == {(500, 375), (375, 500)}
    assert all(image.format == "JPEG" and image.mode == "RGB" for image in opened)
    brightest = [np.percentile(np.asarray(image).max(-1), 99.5) for image in opened]
    assert min(brightest) > 140, "a digit stands out from the background"
