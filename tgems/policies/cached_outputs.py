"""Outputs of the exit modules of one seed for the cached images of a split, and views of them for policies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from tgems.costs.exit_costs import ExitCosts
from tgems.exits.bank_statistics import BankStatistics, bank_statistics
from tgems.exits.modules import ExitHeads, Gates
from tgems.features.row_access import Rows
from tgems.policies.exit_view import ExitView, Reads

BLOCK_ELEMENTS = 2_000_000
ROWS = 4096


@dataclass(frozen=True)
class ExitModules:
    """The trained modules of one seed.

    Attributes:
        heads: Heads of all exits before the last.
        gates: Gates by kind and rate target; the target is None for gates that serve all of them.
    """

    heads: ExitHeads
    gates: dict[tuple[str, float | None], Gates]

    def gates_for(self, kind: str, rate_target: float | None) -> Gates:
        """Return the gates of a kind for a rate target."""
        return self.gates[kind, rate_target if (kind, rate_target) in self.gates else None]


@dataclass(frozen=True)
class CachedOutputs:
    """One split at every exit, for one seed.

    Attributes:
        keys: Sample keys.
        summaries: Summaries before the last exit `[n, E-1, S]`, read by rows.
        embeddings: Unit embeddings at every exit `[n, E, D]`.
        bank: Text embeddings known beforehand `[M, D]`: class names or captions.
        right: Whether the best text is right `[n, E]` bool; for oracles, and for fits on labelled validation images.
        scale: Logit scale.
        costs: Costs of the exits.
        modules: Trained modules; None for the frozen projection.
        seed: Seed of the modules; None for the frozen projection.
        text_recall: Exits of all images `[n]` -> R@1 of the texts in the gallery that they make, for fits on labelled
            validation images; None if images have labels instead of captions.
        scores: Scores that policies have computed already, by policy and rate target.
    """

    keys: Sequence[str]
    summaries: Rows | Tensor
    embeddings: Tensor
    bank: Tensor
    right: Tensor
    scale: float
    costs: ExitCosts
    modules: ExitModules | None
    seed: int | None
    text_recall: Callable[[Tensor], float] | None = None
    scores: dict[tuple[str, float | None], Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def statistics(self) -> BankStatistics:
        """Bank statistics at every exit `[n, E]`, computed once for all policies, in blocks of images."""
        size = max(1, BLOCK_ELEMENTS // (self.embeddings.shape[1] * len(self.bank)))
        parts = [bank_statistics(self.scale * z @ self.bank.T, self.scale) for z in self.embeddings.split(size)]
        return BankStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @cached_property
    def last_exits_view(self) -> Tensor:
        """Probability that the last exit gives to each exit's best text `[n, E]` float64: the reward of leaving there.

        It is the best estimate of being right that needs no labels. At the last exit it is the largest probability.
        """
        size = max(1, BLOCK_ELEMENTS // len(self.bank))
        parts = zip(self.embeddings[:, -1].split(size), self.statistics.winner.split(size), strict=True)
        return torch.cat([(self.scale * z @ self.bank.T).double().softmax(-1).gather(1, w) for z, w in parts])

    def select(self, rows: Tensor) -> "CachedOutputs":
        """Return some of the images, by index `[m]`, with what has already been computed for them."""
        some = replace(
            self,
            keys=[self.keys[i] for i in rows.tolist()],
            summaries=self.summaries[rows],
            embeddings=self.embeddings[rows],
            right=self.right[rows],
            text_recall=None,
            scores={key: scores[rows] for key, scores in self.scores.items()},
        )
        some.__dict__["statistics"] = BankStatistics(*(column[rows] for column in self.statistics))
        return some

    def views(
        self, gates: str | None, rate_target: float | None, allowed: Sequence[Reads]
    ) -> Iterator[list["CachedView"]]:
        """Yield blocks of images as a policy sees them, each as a list of views, one per exit before the last.

        Args:
            gates: Kind of the policy's gates, or None.
            rate_target: Rate target of the gates.
            allowed: Parts of the view that the policy may read at each exit.
        """
        module = None if gates is None or self.modules is None else self.modules.gates_for(gates, rate_target)
        for start in range(0, len(self), ROWS):
            block = _Block(self, slice(start, start + ROWS), module)
            memory: dict[str, Tensor] = {}
            yield [CachedView(k, block, memory, reads) for k, reads in enumerate(allowed)]


@dataclass(frozen=True)
class _Block:
    """Some rows of a split; the gates' scores are computed for all exits at once."""

    outputs: CachedOutputs
    rows: slice
    module: Gates | None

    @cached_property
    def summaries(self) -> Tensor:
        return self.outputs.summaries[self.rows]

    @cached_property
    def bank(self) -> BankStatistics:
        """Statistics at the exits before the last `[n, E-1]`."""
        return BankStatistics(*(column[self.rows, :-1] for column in self.outputs.statistics))

    @cached_property
    @torch.no_grad()
    def gate_scores(self) -> Tensor:
        """Scores of the gates `[n, E-1]` float64."""
        if self.module is None:
            raise ValueError("a policy reads view.gate, but declares no kind of gates")
        return self.module.scores(self.summaries, self.bank if self.module.reads_bank else None)


class CachedView(ExitView):
    """A block of cached images at one exit."""

    def __init__(self, exit_index: int, block: _Block, memory: dict[str, Tensor], allowed: Reads):
        super().__init__(exit_index, block.outputs.costs, memory, allowed)
        self._block = block

    def __len__(self) -> int:
        return len(range(*self._block.rows.indices(len(self._block.outputs))))

    def _summary(self) -> Tensor:
        return self._block.summaries[:, self.exit_index]

    def _embedding(self) -> Tensor:
        return self._block.outputs.embeddings[self._block.rows, self.exit_index]

    def _bank(self) -> BankStatistics:
        return BankStatistics(*(column[:, self.exit_index] for column in self._block.bank))

    def _gate(self) -> Tensor:
        return self._block.gate_scores[:, self.exit_index]

    def _gate_reads_bank(self) -> bool:
        return self._block.module is not None and self._block.module.reads_bank
