import io

import pytest
import torch
from PIL import Image

from tgems.demo.datasets import samples
from tgems.features.encode import class_embeddings, encode_images, encode_texts


@pytest.fixture(scope="module")
def images(demo_backbone):
    drawn = samples("scenes", "test", 6, 0)
    return torch.stack([demo_backbone.preprocess(Image.open(io.BytesIO(s.image))) for s in drawn])


@pytest.mark.parametrize("normalize", [True, False])
def test_last_exit_is_encode_image_bit_for_bit(demo_backbone, images, normalize):
    with torch.no_grad():
        expected = demo_backbone.model.encode_image(images, normalize=normalize)
        state = demo_backbone.tower.stem(images)
        for k in range(demo_backbone.tower.depth):
            state = demo_backbone.tower.block(k, state)
        raw = demo_backbone.tower.finish(state)
    ours = encode_images(demo_backbone.tower, images, demo_backbone.blocks).embeddings if normalize else raw
    assert torch.equal(ours, expected)


def test_intermediates_equal_forward_intermediates(demo_backbone, images):
    with torch.no_grad():
        theirs = demo_backbone.model.visual.forward_intermediates(
            images, output_fmt="NLC", intermediates_only=True, output_extra_tokens=True
        )
    ours = encode_images(demo_backbone.tower, images, demo_backbone.blocks, grids=(1, 2)).summaries
    for k in range(7):
        patches, prefix = theirs["image_intermediates"][k], theirs["image_intermediates_prefix"][k]
        assert torch.equal(ours[:, k, :64], prefix[:, 0])
        assert torch.allclose(ours[:, k, 64:128], patches.mean(1), atol=1e-6)
        rows = patches.unflatten(1, (4, 4))
        for cell, (i, j) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
            mean = rows[:, i : i + 2, j : j + 2].mean((1, 2))
            assert torch.allclose(ours[:, k, 64 * (2 + cell) : 64 * (3 + cell)], mean, atol=1e-6)


def test_fewer_exits_are_a_selection_of_all(demo_backbone, images):
    every, some = (encode_images(demo_backbone.tower, images, blocks) for blocks in (range(1, 9), (2, 5, 8)))
    assert torch.equal(some.summaries, every.summaries[:, [1, 4]])
    assert torch.equal(some.raw_embeddings, every.raw_embeddings[:, [1, 4, 7]])


def test_the_last_raw_embedding_is_the_embedding(demo_backbone, images):
    encoded = encode_images(demo_backbone.tower, images, demo_backbone.blocks)
    assert torch.equal(encoded.raw_embeddings[:, -1], encoded.embeddings)
    assert encoded.summaries.shape == (6, 7, 5 * 64)


def test_class_embeddings_equal_clip_benchmark(demo_backbone):
    from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    names, templates = ["zero", "one", "seven"], ["a {c}", "a handwritten {c}"]
    theirs = zero_shot_classifier(demo_backbone.model, demo_backbone.tokenizer, names, templates, "cpu", amp=False)
    ours = class_embeddings(demo_backbone.model, demo_backbone.tokenizer, names, templates)
    assert torch.allclose(ours.T, theirs, atol=1e-6)


def test_texts_do_not_depend_on_batching(demo_backbone):
    texts = ["a red two", "a handwritten nine", "something blue"]
    together = encode_texts(demo_backbone.model, demo_backbone.tokenizer, texts)
    apart = encode_texts(demo_backbone.model, demo_backbone.tokenizer, texts, batch_size=1)
    assert torch.allclose(together, apart, atol=1e-6)
