from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from tgems.demo import datasets as demo
from tgems.demo import scenes as sc
from tgems.demo.handwriting import PARTS, SHARES, load_handwriting, split_handwriting
from tgems.demo.rendering import render
from tgems.errors import UserError


def test_parts_share_no_handwriting():
    parts = [np.concatenate(split_handwriting(part, 0)) for part in PARTS]
    everything = np.concatenate(parts)
    assert len(everything) == len(set(everything.tolist())) == 1797
    assert [len(part) / 1797 for part in parts] == pytest.approx(SHARES, abs=0.005)


def test_scenes_use_only_their_own_part():
    allowed = set(np.concatenate(split_handwriting("test", 0)).tolist())
    for scene in sc.scenes(0, "test", 0, 50, demo.RETRIEVAL_SHARES):
        assert {d.source for d in scene.digits} <= allowed


@pytest.mark.parametrize("dataset", list(demo.PROMPTS))
def test_equal_seeds_give_equal_samples(dataset):
    first = list(islice(demo.samples(dataset, "validation", 30, 3), 30))
    again = list(islice(demo.samples(dataset, "validation", 30, 3), 30))
    assert first == again
    if dataset != "handwriting":
        assert first != list(islice(demo.samples(dataset, "validation", 30, 4), 30))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_each_caption_is_true_of_exactly_one_image(part):
    scenes = list(sc.scenes(0, part, 0, 2000, demo.RETRIEVAL_SHARES, unique=True))
    descriptions = [sc.full_description(s) for s in scenes]
    by_layout = {}
    for scene in scenes:
        by_layout.setdefault(scene.layout, []).append(scene)
    for own, description in zip(scenes, descriptions, strict=True):
        assert [s for s in by_layout[description.layout] if description.holds(s)] == [own]


def test_uniqueness_that_cannot_be_met_is_an_error():
    with pytest.raises(UserError, match="cannot all be told apart"):
        list(sc.scenes(0, "test", 0, 60, {"plain": 1.0}, unique=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sc.LAYOUTS))
def test_descriptions_hold_of_their_scene_and_render_is_pure(seed, layout):
    rng = np.random.default_rng(seed)
    scene = sc.sample_scene(rng, split_handwriting("train", 0), layout, (seed,))
    assert sc.full_description(scene).holds(scene)
    assert sc.partial_description(scene, rng).holds(scene)
    pixels = render(scene)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, render(scene))
    assert pixels.max() > 60, "a digit is visible"


def test_captions_are_english_sentences():
    two = sc.Claim(2, "red")
    assert sc.caption(sc.Description((two, sc.Claim(8, "blue")), "above")) == "a red two above a blue eight"
    assert sc.caption(sc.Description((sc.Claim(8),), handwritten=True)) == "a handwritten eight"
    assert sc.caption(sc.Description((sc.Claim(7, "red", "large"),), "single")) == "a large red seven"


def test_the_handwriting_is_that_of_scikit_learn():
    digits = load_digits()
    images, values = load_handwriting()
    assert images.dtype == np.float32 and np.array_equal(images * 16, digits.images)
    assert values.dtype == np.int64 and np.array_equal(values, digits.target)


def test_plain_images_are_the_source_only_resized():
    images, values = load_handwriting()
    scene = sc.plain_scene(5, int(values[5]))
    small = render(scene)[..., 0].reshape(8, 4, 8, 4).mean((1, 3)) / 255
    assert np.corrcoef(small.ravel(), images[5].ravel())[0, 1] > 0.97


def test_only_scenes_have_a_training_part():
    with pytest.raises(ValueError, match="'digits' has no part 'train'"):
        next(demo.samples("digits", "train", 1, 0))
