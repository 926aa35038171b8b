import io
import shutil

import pytest
import torch
from PIL import Image

from tgems.data.webdataset import read_shard, shard_paths
from tgems.errors import UserError
from tgems.features.cache import load_features
from tgems.features.encode import encode_images


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


def _copy(demo_features, folder):
    shutil.copytree(demo_features, folder)
    return folder / "digits"


@pytest.mark.parametrize(
    "name", ["digits.shards/1/000.safetensors", "digits/texts.safetensors", "digits/samples.parquet"]
)
def test_a_truncated_file_is_named(demo_features, tmp_path, name):
    cache = _copy(demo_features, tmp_path / "c")
    file = tmp_path / "c" / name
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{name}: truncated, altered or missing"):
        load_features(cache)


def test_a_cache_without_manifest_is_not_whole(demo_features, tmp_path):
    cache = _copy(demo_features, tmp_path / "c")
    (cache / "manifest.json").unlink()
    with pytest.raises(UserError, match="not whole"):
        load_features(cache)


def test_other_weights_name_both_sides(demo_features):
    other = load_features(demo_features / "digits").manifest | {"weights": "f00d"}
    with pytest.raises(UserError, match="cached with weights '[0-9a-f]+', but 'f00d' is in use"):
        load_features(demo_features / "digits", like=other)
