from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tgems.evaluation.precision import precision_change
from tgems.features.cache import load_features


def _with_reference(features, rows, exact):
    manifest = features.manifest | {"precision": "bfloat16"}
    return replace(features, reference=(rows, exact), manifest=manifest)


@pytest.mark.parametrize("dataset", ["digits", "scenes"])
def test_change_is_that_of_the_metrics_on_the_same_images(demo_features, dataset):
    features, rows = load_features(demo_features / dataset), torch.tensor([3, 60, 7, 8, 21, 22, 40])
    assert precision_change(features) is None
    same = precision_change(_with_reference(features, rows, features.embeddings[rows]))
    assert same["n"] == 7 and same["cosine"] == pytest.approx(1)
    assert all(m["change"] == 0 for m in same["metrics"].values())
    noise = F.normalize(torch.randn(7, features.embeddings.shape[1], generator=torch.manual_seed(0)), dim=-1)
    worse = precision_change(_with_reference(features, rows, noise))
    assert worse["cosine"] < 0.9
    for name, metric in worse["metrics"].items():
        assert metric["value"] == same["metrics"][name]["value"] > metric["float32"]
        assert metric["change"] == pytest.approx(metric["value"] - metric["float32"])
