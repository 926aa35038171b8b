import io
import shutil

import pytest
import torch
from PIL import Image

from tgems.data.webdataset import Prompts, Sample, read_shard, shard_paths, write_prompts, write_split
from tgems.errors import UserError
from tgems.features.cache import load_features
from tgems.features.encode import encode_images
from tgems.features.extract import extract_features


def test_cache_holds_what_the_encoder_says(demo_backbone, demo_data, demo_features):
    features = load_features(demo_features / "scenes")
    drawn = [s for p in shard_paths(demo_data / "scenes/test") for s in read_shard(p)]
    images = torch.stack([demo_backbone.preprocess(Image.open(io.BytesIO(s.image))) for s in drawn[:32]])
    encoded = encode_images(demo_backbone.tower, images, demo_backbone.blocks)
    assert torch.equal(features.embeddings[:32], encoded.embeddings)
    assert torch.equal(features.summaries[:32], encoded.summaries)
    assert features.samples["key"].tolist() == [s.key for s in drawn]
    assert features.captions["caption"].tolist() == [c for s in drawn for c in s.captions]
    assert len(features.text_embeddings) == len(features.captions)


def test_clusters_cover_every_image(demo_features):
    scenes = load_features(demo_features / "scenes")
    single = scenes.samples["n_digits"].to_numpy() == 1
    assert len(scenes.clusters) == 70
    assert all(c.startswith("image ") != one for c, one in zip(scenes.clusters, single, strict=True))


@pytest.mark.parametrize("name", ["0.safetensors", "texts.safetensors", "samples.parquet"])
def test_a_truncated_file_is_named(demo_features, tmp_path, name):
    shutil.copytree(demo_features / "digits", tmp_path / "c")
    file = tmp_path / "c" / name
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{name}: truncated, altered or missing"):
        load_features(tmp_path / "c")


def test_a_cache_without_manifest_is_not_whole(demo_features, tmp_path):
    shutil.copytree(demo_features / "digits", tmp_path / "c")
    (tmp_path / "c/manifest.json").unlink()
    with pytest.raises(UserError, match="not whole"):
        load_features(tmp_path / "c")


def test_other_weights_name_both_sides(demo_features):
    other = load_features(demo_features / "digits").manifest | {"weights": "f00d"}
    with pytest.raises(UserError, match="cached with weights '[0-9a-f]+', but 'f00d' is in use"):
        load_features(demo_features / "digits", like=other)


def _split(folder, image: bytes, label=0, captions=()):
    write_prompts(folder, None if captions else Prompts(("a", "b"), ("{c}",)))
    write_split([Sample("x-0", image, "png", label, captions)], folder / "test", 5)
    return folder / "test"


def _png():
    buffer = io.BytesIO()
    Image.new("L", (20, 50), 90).save(buffer, "PNG")
    return buffer.getvalue()


def test_one_grey_image_of_odd_shape_is_fine(demo_backbone, tmp_path):
    extract_features(demo_backbone, _split(tmp_path / "d", _png()), "zeroshot_classification", tmp_path / "f")
    assert load_features(tmp_path / "f").summaries.shape == (1, 7, 128)


@pytest.mark.parametrize(
    ("image", "label", "task", "message"),
    [
        (b"garbage", 0, "zeroshot_classification", "'x-0' cannot be decoded"),
        (None, 2, "zeroshot_classification", "has class 2, but classnames.txt lists 2"),
        (None, 0, "zeroshot_retrieval", "'x-0' has no caption"),
    ],
)
def test_bad_samples_are_named_and_nothing_is_left(demo_backbone, tmp_path, image, label, task, message):
    split = _split(tmp_path / "d", image or _png(), label)
    with pytest.raises(UserError, match=message):
        extract_features(demo_backbone, split, task, tmp_path / "out/f")
    assert not (tmp_path / "out/f").exists()
