import io

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tgems.data.demo import samples
from tgems.features.encode import block_tokens, class_embeddings, encode_images, encode_texts, project, summarise


@pytest.fixture(scope="module")
def images(demo_backbone):
    drawn = samples("scenes", "test", 6, 0)
    return torch.stack([demo_backbone.preprocess(Image.open(io.BytesIO(s.image))) for s in drawn])


@pytest.mark.parametrize("normalize", [True, False])
def test_last_exit_is_encode_image_bit_for_bit(demo_backbone, images, normalize):
    with torch.no_grad():
        expected = demo_backbone.model.encode_image(images, normalize=normalize)
        raw = project(demo_backbone.model.visual, block_tokens(demo_backbone.model.visual, images)[-1])
    ours = encode_images(demo_backbone.model.visual, images).embeddings if normalize else raw
    assert torch.equal(ours, expected)


def test_intermediates_equal_forward_intermediates(demo_backbone, images):
    visual = demo_backbone.model.visual
    with torch.no_grad():
        theirs = visual.forward_intermediates(
            images, output_fmt="NLC", intermediates_only=True, output_extra_tokens=True
        )
    ours = encode_images(visual, images).summaries
    for k, (patches, prefix) in enumerate(
        zip(theirs["image_intermediates"], theirs["image_intermediates_prefix"], strict=True)
    ):
        expected = summarise(torch.cat((prefix, patches), 1))
        assert torch.equal(ours[:, k], expected)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_parity_holds_for_a_full_size_architecture(name):
    torch.manual_seed(0)
    visual = open_clip.create_model(name, pretrained=None).visual.eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = F.normalize(visual(images), dim=-1)
    assert torch.equal(encode_images(visual, images).embeddings, expected)


def test_raw_embeddings_end_in_the_embedding(demo_backbone, images):
    encoded = encode_images(demo_backbone.model.visual, images)
    assert torch.equal(encoded.raw_embeddings[:, -1], encoded.embeddings)
    assert encoded.summaries.shape == (6, 8, 128)


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
