import hashlib
import io
import tarfile

import pytest
from PIL import Image

from tgems.data.tar_index import ShardError
from tgems.data.webdataset import Sample, read_prompts, read_shard, shard_paths, write_split
from tgems.demo.datasets import generate_split


def _bytes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_equal_seeds_give_equal_bytes(tmp_path):
    generate_split("scenes", "validation", 25, 0, tmp_path / "a", 10)
    generate_split("scenes", "validation", 25, 0, tmp_path / "b", 10)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert len(shard_paths(tmp_path / "a")) == 3


def test_samples_are_read_as_they_were_written(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(image, "PNG")
    written = [
        Sample("a-0", image.getvalue(), "png", 3, (), {"sources": ["7"]}),
        Sample("a-1", image.getvalue(), "png", None, ("one", "two words")),
    ]
    for sample, task in zip(written, ("zeroshot_classification", "zeroshot_retrieval"), strict=True):
        assert write_split([sample], tmp_path / "s", 10) == 1
        assert list(read_shard(tmp_path / "s/0.tar", task)) == [sample]


def test_clip_benchmark_reads_our_shards(demo_data, demo_backbone):
    from clip_benchmark.datasets.builder import build_dataset, get_dataset_default_task

    ours = [s for p in shard_paths(demo_data / "digits/test") for s in read_shard(p, "zeroshot_classification")]
    theirs = build_dataset(
        dataset_name="wds/digits", root=str(demo_data / "digits"), split="test", transform=demo_backbone.preprocess
    )
    loaded = list(theirs)
    assert [int(label) for _, label in loaded] == [s.label for s in ours]
    prompts = read_prompts(demo_data / "digits")
    assert tuple(theirs.classes) == prompts.classnames and tuple(theirs.templates) == prompts.templates
    assert get_dataset_default_task("wds/digits") == "zeroshot_classification"
    pixels = demo_backbone.preprocess(Image.open(io.BytesIO(ours[0].image)).convert("RGB"))
    assert (loaded[0][0] == pixels).all()

    retrieval = build_dataset(
        dataset_name="wds/scenes",
        root=str(demo_data / "scenes"),
        split="test",
        transform=demo_backbone.preprocess,
        task="zeroshot_retrieval",
    )
    captions = [tuple(texts) for _, texts in retrieval]
    assert captions == [
        s.captions for p in shard_paths(demo_data / "scenes/test") for s in read_shard(p, "zeroshot_retrieval")
    ]


def test_no_sample_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ShardError, match="at least one sample"):
        write_split([], tmp_path / "s", 10)
    assert list(tmp_path.iterdir()) == []


def test_empty_and_damaged_shards_are_named(tmp_path):
    tarfile.open(tmp_path / "0.tar", "w").close()
    with pytest.raises(ShardError, match="0.tar: the shard holds no sample"):
        list(read_shard(tmp_path / "0.tar"))
    (tmp_path / "0.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(ShardError, match="0.tar: damaged archive"):
        list(read_shard(tmp_path / "0.tar"))


def test_truncated_shard_is_named(tmp_path):
    generate_split("scenes", "validation", 5, 0, tmp_path / "s", 10)
    shard = tmp_path / "s/0.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(ShardError, match=r"0\.tar: damaged archive"):
        list(read_shard(shard))
