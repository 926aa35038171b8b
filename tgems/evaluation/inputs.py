"""Read what evaluation needs of one split and seed: cached features and trained modules; nothing is computed twice."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tgems.evaluation.metrics import image_to_text_ranks, rank_of_label
from tgems.exits.folders import load_module
from tgems.exits.policies import ExitModules, ExitOutputs
from tgems.exits.train import embed
from tgems.features.cache import FeatureSet
from tgems.profiling.costs import ExitCosts


def module_folders(seed: int, rate_targets: list[float], guidance: list[str]) -> dict[str, str]:
    """Folders below `results/exits/{backbone}` that a seed's modules are in, by `heads`, `bank` or rate target."""
    folders = {"heads": f"heads/seed-{seed}"}
    if "bank" in guidance:
        folders["bank"] = f"bank/seed-{seed}"
    if "image" in guidance:
        folders |= {str(rate): f"image/rate-{rate:.2f}/seed-{seed}" for rate in rate_targets}
    return folders


def load_modules(exits: Path, seed: int, rate_targets: list[float], guidance: list[str], weights: str) -> ExitModules:
    """All modules of one seed below `results/exits/{backbone}`."""
    folders = module_folders(seed, rate_targets, guidance)
    modules = {name: load_module(Path(exits) / folder, weights) for name, folder in folders.items()}
    return ExitModules(
        heads=modules.pop("heads"),
        bank_gates=modules.pop("bank", None),
        image_gates={float(rate): gates for rate, gates in modules.items()},
    )


def outputs_of(features: FeatureSet, modules: ExitModules, costs: ExitCosts) -> ExitOutputs:
    """Evaluate the heads of one seed on one split."""
    return ExitOutputs(
        summaries=features.summaries[:, :-1],
        embeddings=embed(modules.heads, features.summaries[:, :-1], features.embeddings),
        bank=features.texts,
        scale=features.manifest["logit_scale"],
        costs=costs,
        modules=modules,
    )


@dataclass(frozen=True)
class Truth:
    """What is right, for ranking: labels of a classification set, or the image of every caption."""

    labels: Tensor | None
    texts: Tensor
    text_image: Tensor | None

    @classmethod
    def of(cls, features: FeatureSet) -> "Truth":
        """Take labels or captions from a feature set."""
        if features.captions is None:
            return cls(features.labels, features.texts, None)
        return cls(None, features.text_embeddings, features.text_image)

    def image_ranks(self, embeddings: Tensor) -> Tensor:
        """Rank of the right class or caption at every exit: `[n, E, D]` -> `[n, E]` int64."""
        if self.text_image is None:
            return rank_of_label(embeddings @ self.texts.T, self.labels)
        ranks = [image_to_text_ranks(z, self.texts, self.text_image) for z in embeddings.unbind(1)]
        return torch.stack(ranks, 1)
