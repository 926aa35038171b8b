"""Promises of neighbours without texts: what images lose, what is expected of them, and whether promises are kept."""

import numpy as np
import pytest
import torch

from tgems.runtime.neighbour_losses import NeighbourLosses
from tgems.runtime.neighbours import lost_share, nearest
from tgems.runtime.own_outputs import own_outputs


def test_a_promise_of_neighbours_is_kept(make, fresh):
    """As promised: images that were not fitted on look among those that were, before and after."""
    model = make()
    aim = {"keep": 0.5, "upcoming": 400, "seed": 1}
    model.calibrate(fresh[:400], **aim)
    order = np.random.default_rng(1).permutation(400)
    sample = fresh[:400][torch.from_numpy(order)]
    fitted = sample[torch.from_numpy(np.random.default_rng(1).permutation(400)[:200])]
    full = [model.model.encode_image(images, normalize=True) for images in (fresh[400:], fitted)]
    early = [model.encode_image(images) for images in (fresh[400:], fitted)]
    assert 1 - lost_share(nearest(*full, 10), nearest(*early, 10)).mean() >= 0.5


def test_lost_neighbours_are_counted_as_by_sets():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(2, 30, 8), dim=-1)
    before, after = nearest(z[0][:12], z[0], 5), nearest(z[1][:12], z[1], 5)
    expected = [1 - len(set(a) & set(b)) / 5 for a, b in zip(before.tolist(), after.tolist(), strict=True)]
    assert lost_share(before, after).tolist() == pytest.approx(expected)
    similar = z[0][:12] @ z[0].T
    assert all(set(row.tolist()) == set(s.argsort()[-5:].tolist()) for row, s in zip(before, similar, strict=True))


def test_no_image_of_a_collection_is_its_own_neighbour():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(30, 8), dim=-1)
    expected = [set((z @ own).index_fill(0, torch.tensor(i), -2).argsort()[-5:].tolist()) for i, own in enumerate(z)]
    assert [set(row) for row in nearest(z, z, 5, others=True).tolist()] == expected
    z[7] = z[3]
    assert nearest(z, z, 1, others=True)[[3, 7]].tolist() == [[7], [3]], "but its twin is"


def test_images_of_the_collection_foretell_what_others_lose(make, fresh):
    """Along the whole path, within chance, and exactly as by looking one image up in the collection without it."""
    model = make()
    policy = model.early_exit.policy
    outputs = own_outputs(model.backbone, model.early_exit, policy, fresh.split(200), None, [0.5])
    one, other = outputs.select(torch.arange(400)), outputs.select(torch.arange(400, 800))
    path = policy.path(one, [0.5])[::8]
    losses = NeighbourLosses(policy, one, other, 10, path)
    expected = losses.of_collection()
    found = np.stack([losses.at(point) for point in range(len(path))], 1)
    assert np.abs(expected.mean(0) - found.mean(0)).max() < 0.06 and expected.shape == found.shape == (400, len(path))
    for image in (0, 13):
        rest = outputs.select(torch.tensor([i for i in range(400) if i != image]))
        alone = NeighbourLosses(policy, rest, outputs.select(torch.tensor([image])), 10, path)
        assert [alone.at(point)[0] for point in range(len(path))] == pytest.approx(expected[image])
