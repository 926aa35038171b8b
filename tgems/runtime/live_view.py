"""Images that are still in the encoder, as a policy sees them, and the decision which of them leave."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.states import State, select
from tgems.backbones.towers import Tower
from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.bank_statistics import BankStatistics, bank_statistics
from tgems.exits.modules import ExitHeads, Gates
from tgems.policies.exit_view import ExitView
from tgems.policies.interface import Policy, ThresholdPolicy
from tgems.runtime.pooled_summaries import pooled_rows

UNCHANGED = nullcontext()


@dataclass(frozen=True)
class ExitDecider:
    """Policy, modules and thresholds that decide where images leave, and embed them there.

    Attributes:
        policy: A policy that decides image by image.
        costs: Costs and sizes of the exits.
        heads: Heads of all exits before the last; None for the frozen pooling and projection.
        gates: The policy's gates, or None.
        thresholds: Exit (0-based) at which images may leave -> threshold of the score.
        asked: Exits at which the policy is evaluated, ascending; those of `thresholds` are among them.
        scale: Logit scale of the backbone.
        bank: Unit text embeddings `[M, D]` that the policy looks at, or None.
    """

    policy: Policy
    costs: ExitCosts
    heads: ExitHeads | None
    gates: Gates | None
    thresholds: Mapping[int, float]
    asked: tuple[int, ...]
    scale: float = 1.0
    bank: Tensor | None = None

    def at(self, exits: Sequence[int]) -> "ExitDecider":
        """Return a decider that lets images leave at some of the exits only."""
        return replace(self, thresholds={k: self.thresholds[k] for k in exits}, asked=tuple(exits))

    def leaving(self, view: "LiveView") -> Tensor:
        """Decide which images leave at an exit `[n]` bool.

        Raises:
            UserError: The policy looks at a text bank, and none was set.
        """
        if not isinstance(self.policy, ThresholdPolicy):
            return torch.ones(len(view), dtype=torch.bool, device=view.device)
        score = self.policy.score(view)
        threshold = self.thresholds.get(view.exit_index)
        return torch.zeros_like(score, dtype=torch.bool) if threshold is None else score > threshold

    @cached_property
    def summary(self) -> tuple[int, int]:
        """Width of one part of a summary, and size of its grid."""
        return self.costs.width, self.costs.grid

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of heads and gates, to which summaries are converted."""
        for module in (self.heads, self.gates):
            if module is not None:
                return next(module.parameters()).dtype
        return torch.float32


class LiveView(ExitView):
    """Images that have reached one exit on their way through the encoder.

    Args:
        exit_index: The exit.
        decider: Policy and modules.
        tower: Image tower.
        state: The tower's state after the exit's block, images first.
        memory: Tensors that the policy remembered of these images; changed in place.
    """

    def __init__(self, exit_index: int, decider: ExitDecider, tower: Tower, state: State, memory: dict[str, Tensor]):
        allowed = decider.policy.reads(decider.costs)[exit_index]
        super().__init__(exit_index, decider.costs, memory, allowed)
        self.device = state.device
        self._decider, self._tower, self._state = decider, tower, state

    def __len__(self) -> int:
        return len(self._state)

    def embed(self, chosen: Tensor) -> Tensor:
        """Embed some of the images `[m]` as unit vectors `[m, D]`; nothing is computed twice."""
        everyone = len(chosen) == len(self)
        if everyone or "_embeddings" in self.__dict__:
            return self._embeddings if everyone else self._embeddings[chosen]
        if self._decider.heads is None:
            return self._finished(select(self._state, chosen))
        return self._head(self._decider.heads, self._summaries.index_select(0, chosen))

    def _finished(self, state: State) -> Tensor:
        return F.normalize(self._tower.finish(state).float(), dim=-1)

    def _head(self, heads: ExitHeads, summaries: Tensor) -> Tensor:
        with self._own_precision():
            return heads.at_exit(self.exit_index, summaries)

    def _own_precision(self) -> AbstractContextManager:
        """Keep the precision of heads and gates under autocast; without autocast there is nothing to do."""
        kind = self.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else UNCHANGED

    @cached_property
    def _summaries(self) -> Tensor:
        with self._own_precision():
            rows = pooled_rows(self._tower, self._state, *self._decider.summary)
        return rows if rows.dtype == self._decider.dtype else rows.to(self._decider.dtype)

    @cached_property
    def _embeddings(self) -> Tensor:
        heads = self._decider.heads
        return self._finished(self._state) if heads is None else self._head(heads, self._summaries)

    @cached_property
    def _statistics(self) -> BankStatistics:
        bank = self._decider.bank
        if bank is None:
            raise UserError("this model looks at a text bank: call set_text_bank(embeddings) before encode_image")
        with self._own_precision():
            z = self._embeddings
            return bank_statistics(self._decider.scale * (z @ bank.T.to(z.dtype)), self._decider.scale)

    def _summary(self) -> Tensor:
        return self._summaries

    def _embedding(self) -> Tensor:
        return self._embeddings

    def _bank(self) -> BankStatistics:
        return self._statistics

    def _gate(self) -> Tensor:
        if self._decider.gates is None:
            raise ValueError("a policy reads view.gate, but has no gates")
        bank = self._statistics if self._gate_reads_bank() else None
        with self._own_precision():
            return self._decider.gates.scores_at(self.exit_index, self._summaries, bank)

    def _gate_reads_bank(self) -> bool:
        return self._decider.gates is not None and self._decider.gates.reads_bank
