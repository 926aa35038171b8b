"""Read what evaluation needs of one split and seed: cached features and trained modules; nothing is computed twice."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tgems.evaluation.metrics import image_to_text_ranks, rank_of_label
from tgems.exits.folders import load_module
from tgems.exits.names import image_gates_folder, module_folders
from tgems.exits.outputs import ExitModules, ExitOutputs
from tgems.exits.train import embed
from tgems.features.cache import FeatureSet
from tgems.profiling.costs import ExitCosts

ROWS = 4096


def load_modules(exits: Path, seed: int, rate_targets: list[float], gates: list[str], weights: str) -> ExitModules:
    """All modules of one seed below `results/exits/{backbone}/{variant}`; `gates` says which were trained."""
    modules = {f: load_module(Path(exits) / f, weights) for f in module_folders(seed, rate_targets, gates)}
    return ExitModules(
        heads=modules[f"heads/seed-{seed}"],
        image_gates={r: modules[image_gates_folder(seed, r)] for r in rate_targets if "image" in gates},
        bank_gates=modules.get(f"bank/seed-{seed}"),
        confidence_gates=modules.get(f"confidence/seed-{seed}"),
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
            parts = zip(embeddings.split(ROWS), self.labels.split(ROWS), strict=True)
            return torch.cat([rank_of_label(z @ self.texts.T, labels) for z, labels in parts])
        ranks = [image_to_text_ranks(z, self.texts, self.text_image) for z in embeddings.unbind(1)]
        return torch.stack(ranks, 1)


@dataclass(frozen=True)
class Split:
    """One split as one seed's modules see it; without modules, as the backbone alone does.

    Attributes:
        features: Cached features, of the exits in use.
        costs: Of the same exits.
        modules: Of one seed, or None.
        seed: Of the modules, or None.
    """

    features: FeatureSet
    costs: ExitCosts
    modules: ExitModules | None = None
    seed: int | None = None

    @cached_property
    def truth(self) -> Truth:
        """Right answers."""
        return Truth.of(self.features)

    @cached_property
    def embeddings(self) -> Tensor:
        """Unit embeddings at every exit `[n, E, D]`: by the trained heads, or by the frozen projection.

        Where the frozen projection does not accept every exit, all are the last exit's; none but `full` looks at them.
        """
        if self.modules is not None:
            return embed(self.modules.heads, self.features.summaries, self.features.embeddings)
        if self.features.raw_embeddings is None:
            return self.features.embeddings[:, None].expand(-1, len(self.costs.blocks), -1)
        return self.features.raw_at_all_exits()

    @cached_property
    def ranks(self) -> Tensor:
        """Rank of the right text at every exit `[n, E]`."""
        return self.truth.image_ranks(self.embeddings)

    @cached_property
    def outputs(self) -> ExitOutputs:
        """What policies look at."""
        return ExitOutputs(
            keys=self.features.samples["key"].tolist(),
            summaries=self.features.summaries,
            cls_dim=self.costs.width,
            embeddings=self.embeddings,
            bank=self.features.texts,
            right=self.ranks < 1,
            scale=self.features.manifest["logit_scale"],
            costs=self.costs,
            modules=self.modules,
            seed=self.seed,
        )
