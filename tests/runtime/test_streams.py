"""`EarlyExitCLIP.encode_stream`, and `tgems encode`, which uses it."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from runtime.test_engine import in_batches, sure, with_bank
from torch.nn import functional as F

from tgems.errors import UserError
from tgems.runtime import image_files, index


def streamed(model, images, size, batch_size=8):
    """Embeddings and exits of images that come in batches of some size."""
    parts = list(model.encode_stream(images.split(size), batch_size))
    return torch.cat([part.embeddings for part in parts]), torch.cat([part.exits for part in parts])


@pytest.mark.parametrize("policy", ["tgem", "tgem_bank", "patience", "saturation_raw"])
def test_a_stream_has_the_exits_and_embeddings_of_single_batches(make, known, policy):
    model = with_bank(make(policy), known)
    expected, exits = in_batches(model, known.images, 1)
    for size, batch_size, chunk in ((1, 8, None), (7, 4, None), (64, 64, 5)):
        model.chunk = chunk
        embeddings, found = streamed(model, known.images, size, batch_size)
        agree = found == exits
        assert agree[sure(known, policy)].all() and agree.float().mean() > 0.97
        assert torch.allclose(embeddings[agree], expected[agree], atol=1e-5)
        assert embeddings.dtype == torch.float32 and not embeddings.requires_grad


def test_a_cap_holds_for_every_image_of_a_stream(make, known):
    model = make("tgem", max_rate=0.6)
    _, exits = in_batches(model, known.images, 8)
    _, found = streamed(model, known.images, 8)
    assert model.rates[found.numpy()].max() <= 0.6 and (found == exits).float().mean() > 0.97


def test_lower_precision_agrees_as_well_as_in_single_batches(make, known):
    model = with_bank(make("margin"), known)
    with torch.autocast("cpu"):
        expected, exits = in_batches(model, known.images, 1)
        embeddings, found = streamed(model, known.images, 8)
    same = found == exits
    assert same.float().mean() > 0.9 and F.cosine_similarity(embeddings, expected)[same].min() > 0.99
    expected, exits = in_batches(model, known.images, 64)
    try:
        model.to(torch.bfloat16)
        embeddings, found = streamed(model, known.images.bfloat16(), 8)
    finally:
        model.to(torch.float32)
    assert embeddings.dtype == torch.float32 and (found == exits).float().mean() > 0.7


def test_a_rate_is_held_as_by_single_batches(make, known):
    """While a rate is held, no image waits for others, so that thresholds move between two batches."""
    one, other = make("tgem"), make("tgem")
    for model in (one, other):
        model.hold_rate(0.4)
    expected, exits = in_batches(one, known.images, 8)
    embeddings, found = streamed(other, known.images, 8, 64)
    assert torch.equal(found, exits) and torch.equal(embeddings, expected)
    assert other.held == one.held and other.held.images == len(known.images)


def test_what_cannot_be_streamed_is_named(make, known):
    with pytest.raises(UserError, match="batch_size 0: a forward pass takes at least 1 image"):
        streamed(make("tgem"), known.images, 8, 0)
    with pytest.raises(UserError, match="looks at a text bank: call set_text_bank"):
        streamed(make("margin"), known.images, 8)
    assert list(make("margin").encode_stream(iter(()))) == []


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_damaged_image_changes_no_other(make, pictures, tmp_path, batch_size):
    folder = shutil.copytree(pictures, tmp_path / "p")
    images, model = image_files.find_images([str(folder)]), make()
    index.encode_images(model, "m", images, tmp_path / "whole.parquet", batch_size=12)
    images[4].path.write_bytes(b"damaged")
    told = []
    done = index.encode_images(
        model, "m", images, tmp_path / "i.parquet", batch_size, skip_bad=True, advance=told.append
    )
    assert sum(told) == 12 and [name for name, _ in done.left_out] == [images[4].name]
    whole, rest = pd.read_parquet(tmp_path / "whole.parquet").drop(index=4), pd.read_parquet(tmp_path / "i.parquet")
    assert list(rest["image"]) == list(whole["image"]) and list(rest["exit_block"]) == list(whole["exit_block"])
    assert np.allclose(np.stack(rest["embedding"]), np.stack(whole["embedding"]), atol=1e-5)
