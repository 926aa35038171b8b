"""Measure what autocast changes in the full-depth metrics of images that were also encoded in float32."""

import torch

from tgems.evaluation.metrics import rank_of_label, retrieval_ranks
from tgems.features.cache import FeatureSet
from tgems.untrusted import Closed


class MetricChange(Closed):
    """A metric under autocast and in float32, and their difference."""

    value: float
    float32: float
    change: float


class PrecisionChange(Closed):
    """The changes that autocast makes on `n` images; `cosine` is the smallest between an image's two embeddings."""

    precision: str
    n: int
    cosine: float
    metrics: dict[str, MetricChange]


def precision_change(features: FeatureSet) -> dict | None:
    """Compare full-depth metrics on the images that were encoded both ways.

    For retrieval the gallery is those images and the texts are their captions, so values are higher than on the whole
    split; only the change matters.

    Returns:
        `precision`, `n`, smallest `cosine`, and per metric `value`, `float32` and `change`; None without autocast.
    """
    if features.reference is None:
        return None
    rows, exact = features.reference
    reduced = features.embeddings[rows]
    values, reference = _metrics(features, rows, reduced), _metrics(features, rows, exact)
    metrics = {m: {"value": v, "float32": reference[m], "change": v - reference[m]} for m, v in values.items()}
    cosine = (reduced * exact).sum(1).min().item()
    return {"precision": features.manifest["precision"], "n": len(rows), "cosine": cosine, "metrics": metrics}


def _metrics(features: FeatureSet, rows: torch.Tensor, embeddings: torch.Tensor) -> dict[str, float]:
    if features.captions is None:
        ranks = rank_of_label(embeddings @ features.texts.T, features.labels[rows])
        return {"acc1": (ranks < 1).double().mean().item()}
    place = torch.full((len(features.embeddings),), -1)
    place[rows] = torch.arange(len(rows))
    inside = place[features.text_image] >= 0
    of_images, of_texts = retrieval_ranks(
        embeddings, features.text_embeddings[inside], place[features.text_image][inside]
    )
    return {
        "text_retrieval_recall@1": (of_images < 1).double().mean().item(),
        "image_retrieval_recall@1": (of_texts < 1).double().mean().item(),
    }
