import io
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tgems.costs.exit_layout import summary_dim
from tgems.data.webdataset import SplitFiles, read_shard, shard_paths
from tgems.errors import UserError
from tgems.features.cache import load_features
from tgems.features.encode import encode_images
from tgems.features.extract import extract_features
from tgems.features.row_access import Rows
from tgems.features.shards import Encoding


def test_the_cache_contains_the_encoders_outputs(demo_backbone, demo_data, demo_features):
    features = load_features(demo_features / "scenes")
    drawn = [s for p in shard_paths(demo_data / "scenes/test") for s in read_shard(p, "zeroshot_retrieval")]
    images = torch.stack([demo_backbone.preprocess(Image.open(io.BytesIO(s.image))) for s in drawn[:32]])
    encoded = encode_images(demo_backbone.tower, images, demo_backbone.blocks)
    assert torch.equal(features.embeddings[:32], encoded.embeddings)
    assert torch.equal(features.summaries[:32], encoded.summaries)
    assert features.samples["key"].tolist() == [s.key for s in drawn]
    assert features.captions["caption"].tolist() == [c for s in drawn for c in s.captions]
    assert len(features.text_embeddings) == len(features.captions)


@pytest.fixture(scope="module")
def by_grids(demo_backbone, demo_data, tmp_path_factory):
    """Grids -> features of `digits` extracted with them."""
    root, split = (
        tmp_path_factory.mktemp("grids"),
        SplitFiles.of_folder(demo_data / "digits/test", "zeroshot_classification"),
    )
    features = {}
    for grids in ((1, 2), (1,), (2,), ()):
        folder = root / f"grids-{'-'.join(map(str, grids))}"
        extract_features(demo_backbone, split, folder, Encoding(grids=grids))
        features[grids] = load_features(folder)
    return features


@pytest.mark.parametrize("grid", [0, 1, 2])
@pytest.mark.parametrize("blocks", [(1, 2, 3, 4, 5, 6, 7, 8), (2, 5, 8)])
def test_a_grid_is_selected_from_those_extracted(by_grids, grid, blocks):
    dim = summary_dim({"grid": grid}, 64)
    alone, ours = by_grids[(grid,) if grid else ()], by_grids[1, 2].at_exits(blocks, dim)
    assert alone.summaries.shape == (70, 7, dim) and ours.summaries.shape == (70, len(blocks) - 1, dim)
    assert torch.equal(ours.summaries[:], alone.summaries[:][:, [block - 1 for block in blocks[:-1]]])
    assert torch.equal(ours.summaries[:], alone.at_exits(blocks, dim).summaries[:])
    assert ours.manifest["grids"] == ([grid] if grid else [])


def test_a_grid_that_was_not_extracted_is_named(by_grids):
    whole = by_grids[1, 2]
    with pytest.raises(UserError, match=r"extracted with grids \[1, 2\], but not with grid 3"):
        whole.at_exits(whole.manifest["blocks"], summary_dim({"grid": 3}, 64))
    with pytest.raises(UserError, match=r"extracted with grids \[\], but not with grid 2"):
        by_grids[()].at_exits(whole.manifest["blocks"], summary_dim({"grid": 2}, 64))


def test_sources_of_every_image_are_known(demo_features):
    scenes = load_features(demo_features / "scenes")
    digits = scenes.samples["n_digits"].tolist()
    assert len(scenes.sources) == 70
    assert all(1 <= len(own) <= n for own, n in zip(scenes.sources, digits, strict=True))


def test_an_image_without_sources_is_its_own_source(demo_features):
    scenes = load_features(demo_features / "scenes")
    some = scenes.samples.assign(sources=[["a", "b"], None, [], *scenes.samples["sources"][3:]])
    found = replace(scenes, samples=some).sources
    assert found[0] == ["a", "b"]
    assert found[1:3] == [[f"image {key}"] for key in some["key"][1:3]]
    assert replace(scenes, samples=some.drop(columns="sources")).sources == [[key] for key in some["key"]]


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


def test_a_cache_without_manifest_is_incomplete(demo_features, tmp_path):
    cache = _copy(demo_features, tmp_path / "c")
    (cache / "manifest.json").unlink()
    with pytest.raises(UserError, match="the cache is incomplete"):
        load_features(cache)


def test_features_of_other_weights_are_refused(demo_features):
    other = load_features(demo_features / "digits").manifest | {"weights": "f00d"}
    with pytest.raises(UserError, match="cached with weights '[0-9a-f]+', but 'f00d' is in use"):
        load_features(demo_features / "digits", like=other)


def test_a_logit_bias_is_recorded(biased_backbone, demo_data, demo_features, tmp_path):
    split = SplitFiles.of_folder(demo_data / "digits/test", "zeroshot_classification")
    extract_features(biased_backbone, split, tmp_path / "f", Encoding())
    assert load_features(tmp_path / "f").manifest["logit_bias"] == biased_backbone.logit_bias == -10
    assert load_features(demo_features / "digits").manifest["logit_bias"] is None


@pytest.mark.parametrize("streamed", [False, True])
def test_selections_of_columns_compose(streamed):
    whole = torch.arange(3 * 6 * 20).reshape(3, 6, 20).float()
    rows = Rows(tuple(whole.split(2)) if streamed else (whole,))
    once = rows.columns([1, 3, 4], 5, [0, 2, 3], 4)
    expected = whole.unflatten(2, (5, 4))[:, [1, 3, 4]][:, :, [0, 2, 3]]
    assert torch.equal(once[:], expected.flatten(2))
    twice = once.columns([0, 2], 3, [1, 2], 3)
    assert torch.equal(twice[:], expected[:, [0, 2]][:, :, [1, 2], :3].flatten(2)) and twice.shape == (3, 2, 6)
    assert torch.equal(twice.columns([1], 1, [0], 6)[:], twice[:][:, [1]])
    assert torch.equal(once.columns([0, 1, 2], 3, [2], 4)[:], expected[:, :, 2])
    fewer = rows.columns([2, 5], 1, [0], 20).columns([1], 2, [1], 10)
    assert torch.equal(fewer[:], whole[:, [5], 10:])
    with pytest.raises(ValueError, match="rows of 3 parts cannot be read as 4 parts"):
        once.columns([0], 4, [1], 3)


def test_selections_of_exits_compose(by_grids):
    dim = summary_dim({"grid": 2}, 64)
    twice = by_grids[1, 2].at_exits((2, 3, 5, 7, 8), dim).at_exits((3, 7, 8), dim)
    once = by_grids[1, 2].at_exits((3, 7, 8), dim)
    assert torch.equal(twice.summaries[:], once.summaries[:]) and twice.manifest == once.manifest
    assert torch.equal(twice.raw_at_all_exits(), once.raw_at_all_exits())
