"""Images that are still in the encoder, as a policy sees them, and the decision which of them leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.states import State
from tgems.backbones.towers import Tower
from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.bank_statistics import BankStatistics, bank_statistics
from tgems.exits.modules import ExitHeads, Gates
from tgems.features.encode import summary_rows
from tgems.policies.exit_view import ExitView
from tgems.policies.interface import Policy, ThresholdPolicy


@dataclass(frozen=True)
class ExitDecider:
    """Everything that is needed to decide where images leave, and to embed them there.

    Attributes:
        policy: A policy that decides image by image.
        costs: Costs and sizes of the exits.
        heads: Heads of all exits before the last; None for the frozen pooling and projection.
        gates: The policy's gates, or None.
        thresholds: Exit (0-based) at which images may leave -> threshold of the score.
        asked: Exits at which the policy is asked, ascending; those of `thresholds` are among them.
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

    @property
    def dtype(self) -> torch.dtype:
        """Precision of heads and gates, in which they are given summaries."""
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
        memory: What the policy remembered of these images; changed in place.
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
        if "_embeddings" in self.__dict__:
            return self._embeddings[chosen]
        return self._embed(self._state[chosen], None if self._decider.heads is None else self._summaries[chosen])

    def _embed(self, state: State, summaries: Tensor | None) -> Tensor:
        if self._decider.heads is None or summaries is None:
            return F.normalize(self._tower.finish(state).float(), dim=-1)
        with torch.autocast(self.device.type, enabled=False):  # heads and gates keep their precision
            return self._decider.heads.at_exit(self.exit_index, summaries)

    @cached_property
    def _summaries(self) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            rows = summary_rows(self._tower, self._state, self.costs.width, [self.costs.grid])
        return rows.to(self._decider.dtype)

    @cached_property
    def _embeddings(self) -> Tensor:
        return self._embed(self._state, None if self._decider.heads is None else self._summaries)

    @cached_property
    def _statistics(self) -> BankStatistics:
        bank = self._decider.bank
        if bank is None:
            raise UserError("this model looks at a text bank: call set_text_bank(embeddings) before encode_image")
        with torch.autocast(self.device.type, enabled=False):
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
        with torch.autocast(self.device.type, enabled=False):
            return self._decider.gates.scores_at(self.exit_index, self._summaries, bank)

    def _gate_reads_bank(self) -> bool:
        return self._decider.gates is not None and self._decider.gates.reads_bank
