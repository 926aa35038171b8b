"""One split with the modules of one seed: the files that an evaluation reads, and results that policies share."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.evaluation.metrics import image_to_text_ranks, rank_of_label, text_to_image_ranks
from tgems.evaluation.query_bank import QueryBank, with_penalties
from tgems.exits.head_training import embed
from tgems.exits.module_folders import image_gates_folder, joint_folder, module_folders, shared_gates
from tgems.exits.modules import ExitHeads, Gates
from tgems.exits.saved_modules import load_gates, load_heads
from tgems.features.cache import FeatureSet
from tgems.policies.cached_outputs import CachedOutputs, ExitModules
from tgems.policies.interface import Policy

ROWS = 4096


@dataclass(frozen=True)
class Trained:
    """The exit modules of a variant: the folders that hold them, and the scheme of their training.

    Attributes:
        exits: Folder of all modules, `results/exits/{backbone}/{variant}`.
        seeds: Training seeds.
        rate_targets: Rate targets.
        gates: Kinds of trained gates (`tgems.costs.exit_costs.GATES`).
        scheme: `staged` or `joint`.
    """

    exits: str | Path
    seeds: list[int]
    rate_targets: list[float]
    gates: list[str]
    scheme: str

    @property
    def folders(self) -> list[str]:
        """Folders of the modules, relative to `exits`."""
        return [f for seed in self.seeds for f in module_folders(seed, self.rate_targets, self.gates, self.scheme)]

    def shared(self, seed: int, weights: str) -> ExitModules:
        """Read the modules that all policies of a seed share: heads, and gates that were trained on them."""
        gates: dict[tuple[str, float | None], Gates] = {
            (kind, None): self._load_gates(f"{kind}/seed-{seed}", weights)
            for kind in shared_gates(self.gates, self.scheme)
        }
        if self.scheme == "staged" and "image" in self.gates:
            for rate in self.rate_targets:
                gates["image", rate] = self._load_gates(image_gates_folder(seed, rate), weights)
        return ExitModules(self._load_heads(f"heads/seed-{seed}", weights), gates)

    def joint(self, guidance: str, seed: int, rate: float, weights: str) -> ExitModules:
        """Read heads and gates that were trained together for one rate target."""
        folder = joint_folder(guidance, seed, rate)
        gates = self._load_gates(f"{folder}/gates", weights)
        return ExitModules(self._load_heads(f"{folder}/heads", weights), {(guidance, rate): gates})

    def _load_heads(self, folder: str, weights: str) -> ExitHeads:
        return load_heads(Path(self.exits) / folder, weights)

    def _load_gates(self, folder: str, weights: str) -> Gates:
        return load_gates(Path(self.exits) / folder, weights)


@dataclass(frozen=True)
class Truth:
    """The right answers of a split: labels of a classification set, or the image of every caption."""

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
        """Compute the rank of the right class or caption at every exit: `[n, E, D]` -> `[n, E]` int64."""
        if self.labels is not None:
            parts = zip(embeddings.split(ROWS), self.labels.split(ROWS), strict=True)
            return torch.cat([rank_of_label(z @ self.texts.T, labels) for z, labels in parts])
        owners = self.image_of_text
        return torch.stack([image_to_text_ranks(z, self.texts, owners) for z in embeddings.unbind(1)], 1)

    @property
    def image_of_text(self) -> Tensor:
        """Image of every caption `[m]` int64.

        Raises:
            ValueError: There are labels instead of captions.
        """
        if self.text_image is None:
            raise ValueError("a classification split has no captions")
        return self.text_image


@dataclass(frozen=True)
class Split:
    """One split with the modules of one seed, or with the backbone's own frozen projection.

    Attributes:
        features: Cached features, of the exits in use.
        costs: Costs of the same exits.
        modules: Modules of one seed; None for the frozen projection.
        seed: Seed of the modules; None for the frozen projection.
        policies: Names of the policies that use these modules; None for all policies except those of `elsewhere`.
        elsewhere: Names of the policies that have modules of their own.
        rate_target: The one rate target that the modules were trained for; None for all.
        query_bank: Bank that normalises text-to-image scores, or None. With a bank, only text-to-image results count.
    """

    features: FeatureSet
    costs: ExitCosts
    modules: ExitModules | None = None
    seed: int | None = None
    policies: tuple[str, ...] | None = None
    elsewhere: tuple[str, ...] = ()
    rate_target: float | None = None
    query_bank: QueryBank | None = None

    def normalised(self, query_bank: QueryBank) -> "Split":
        """Return a copy of the split whose text-to-image scores are normalised, at a cost that every image pays."""
        split = replace(self, costs=replace(self.costs, query_bank=query_bank.macs), query_bank=query_bank)
        known = ("truth", "embeddings", "ranks", "scores")
        split.__dict__.update({name: getattr(self, name) for name in known})
        return split

    @property
    def score_normalisation(self) -> str:
        """`none` or `querybank`."""
        return "none" if self.query_bank is None else "querybank"

    def serves(self, policy: Policy) -> bool:
        """Return whether a policy is evaluated with these modules, and under this normalisation."""
        if policy.frozen_head != (self.modules is None):
            return False
        if self.query_bank is not None and not policy.index_safe:
            return False
        return policy.name not in self.elsewhere if self.policies is None else policy.name in self.policies

    @cached_property
    def penalties(self) -> Tensor:
        """Penalties of the query bank, which lower the similarities of each image at each exit `[n, E]`."""
        if self.query_bank is None:
            raise ValueError("the split has no query bank")
        return self.query_bank.penalties(self.embeddings)

    @cached_property
    def scores(self) -> dict[tuple[str, float | None], Tensor]:
        """Scores that policies have computed already, which no normalisation changes."""
        return {}

    @cached_property
    def truth(self) -> Truth:
        """Right answers."""
        return Truth.of(self.features)

    @cached_property
    def embeddings(self) -> Tensor:
        """Unit embeddings at every exit `[n, E, D]`: by the trained heads, or by the frozen projection.

        If the frozen projection does not accept every exit, the last exit's embeddings are used for all of them; only
        the policy `full` reads them.
        """
        if self.modules is not None:
            return embed(self.modules.heads, self.features.summaries, self.features.embeddings)
        raw = self.features.raw_at_all_exits()
        return self.features.embeddings[:, None].expand(-1, len(self.costs.blocks), -1) if raw is None else raw

    @cached_property
    def ranks(self) -> Tensor:
        """Rank of the right text at every exit `[n, E]`."""
        return self.truth.image_ranks(self.embeddings)

    @cached_property
    def outputs(self) -> CachedOutputs:
        """The split as policies see it."""
        return CachedOutputs(
            keys=self.features.samples["key"].tolist(),
            summaries=self.features.summaries,
            embeddings=self.embeddings,
            bank=self.features.texts,
            right=self.ranks < 1,
            scale=self.features.manifest["logit_scale"],
            costs=self.costs,
            modules=self.modules,
            seed=self.seed,
            text_recall=None if self.truth.text_image is None else self.text_recall,
            scores=self.scores,
        )

    def gallery_ranks(self, exits: Tensor) -> Tensor:
        """Compute the rank of every caption's image `[m]` in the gallery where image i left at `exits[i]` `[n]`."""
        taken = torch.arange(len(exits)), exits
        gallery, texts = self.embeddings[taken], self.truth.texts
        if self.query_bank is not None:
            gallery, texts = with_penalties(gallery, self.penalties[taken], texts)
        return text_to_image_ranks(gallery, texts, self.truth.image_of_text)

    def text_recall(self, exits: Tensor) -> float:
        """Return R@1 of the captions in that gallery."""
        return (self.gallery_ranks(exits) < 1).double().mean().item()
