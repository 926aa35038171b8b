"""When to leave, one exit at a time: what tgems/exits says of all exits at once, for images that are still under way.

A rule sees the summaries of the images that have come this far, and says which leave; heads and gates of exits that are
not reached are not evaluated.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tgems.errors import UserError
from tgems.exits.bank_modules import BankGates, JointBankGates
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.policies.exit_outputs import BankStatistics, bank_statistics


class Leaving(NamedTuple):
    """Which of the images at an exit leave.

    Attributes:
        mask: `[n]` bool.
        embed: Mask -> unit embeddings `[leaving, D]`, evaluated only where there are some.
    """

    mask: Tensor
    embed: Callable[[Tensor], Tensor]


class ExitRule(nn.Module):
    """Heads and a decision. Subclasses say the score of an exit; an image leaves where it exceeds the exit's threshold.

    Args:
        heads: Of all exits before the last.

    Attributes:
        thresholds: Exit (0-based) -> threshold fitted on validation images; the model sets them.
    """

    needs_bank = False

    def __init__(self, heads: ExitHeads):
        super().__init__()
        self.heads, self.thresholds = heads, {}
        self._alone: dict[tuple[nn.Module, int], Callable[[Tensor], Tensor]] = {}

    def alone(self, module: nn.Module, exit_: int) -> Callable[[Tensor], Tensor]:
        """A module at one exit, its slices taken once: the modules are frozen."""
        if (module, exit_) not in self._alone:
            self._alone[module, exit_] = module.alone(exit_)
        return self._alone[module, exit_]

    def _apply(self, fn, recurse=True):
        self._alone.clear()  # parameters are about to be moved or cast
        return super()._apply(fn, recurse)

    @property
    def dtype(self) -> torch.dtype:
        """Of heads and gates: summaries are cast to it."""
        return self.heads.linear.weight.dtype

    def leaving(self, exit_: int, summaries: Tensor) -> Leaving:
        """Decide at one exit (0-based): summaries `[n, S]`."""
        mask = self.score(exit_, summaries) > self.thresholds[exit_]
        return Leaving(mask, lambda chosen: self.alone(self.heads, exit_)(summaries[chosen]))

    def score(self, exit_: int, summaries: Tensor) -> Tensor:
        """`[n, S]` -> `[n]`."""
        raise NotImplementedError


class Everyone(ExitRule):
    """All leave at the first exit that is looked at: a fixed exit."""

    def leaving(self, exit_: int, summaries: Tensor) -> Leaving:
        """All: summaries `[n, S]`."""
        everyone = torch.ones(len(summaries), dtype=torch.bool, device=summaries.device)
        return Leaving(everyone, lambda chosen: self.alone(self.heads, exit_)(summaries[chosen]))


class ImageRule(ExitRule):
    """A gate on the image alone."""

    def __init__(self, heads: ExitHeads, gates: ImageGates):
        super().__init__(heads)
        self.gates = gates

    def score(self, exit_: int, summaries: Tensor) -> Tensor:
        """Gate logits."""
        return self.alone(self.gates, exit_)(summaries).double()


class BankRule(ExitRule):
    """A rule on what an exit's embedding says about a text bank; embeddings are computed before the decision.

    Args:
        heads: Of all exits before the last.
        scale: Logit scale.
        gates: Bank gates where the policy has some.
    """

    needs_bank = True

    def __init__(self, heads: ExitHeads, scale: float, gates: BankGates | JointBankGates | None = None):
        super().__init__(heads)
        self.scale, self.gates = scale, gates
        self.register_buffer("bank", None, persistent=False)

    def leaving(self, exit_: int, summaries: Tensor) -> Leaving:
        """Decide at one exit (0-based): summaries `[n, S]`.

        Raises:
            UserError: No text bank was set.
        """
        if self.bank is None:
            raise UserError("this model looks at a text bank: call set_text_bank(embeddings) before encode_image")
        z = self.alone(self.heads, exit_)(summaries)
        seen = bank_statistics(self.scale * (z @ self.bank.T.to(z.dtype))[:, None], self.scale, last=False)
        return Leaving(self.of_statistics(exit_, summaries, seen) > self.thresholds[exit_], lambda chosen: z[chosen])

    def of_statistics(self, exit_: int, summaries: Tensor, seen: BankStatistics) -> Tensor:
        """Score of an exit `[n]` float64 from its statistics `[n, 1]`."""
        return self.gates.scores_at(exit_, summaries, seen.features[:, 0].to(summaries.dtype), seen.first[:, 0])


class MaxSoftmaxRule(BankRule):
    """Largest probability."""

    def of_statistics(self, exit_: int, summaries: Tensor, seen: BankStatistics) -> Tensor:
        """max p."""
        return seen.first[:, 0]


class EntropyRule(BankRule):
    """Minus the entropy."""

    def of_statistics(self, exit_: int, summaries: Tensor, seen: BankStatistics) -> Tensor:
        """Minus the entropy over log M."""
        return -seen.entropy[:, 0]


class MarginRule(BankRule):
    """Lead of the largest probability."""

    def of_statistics(self, exit_: int, summaries: Tensor, seen: BankStatistics) -> Tensor:
        """p(1) - p(2)."""
        return seen.margin[:, 0]


BANK_RULES = {"tgem_bank": BankRule, "max_softmax": MaxSoftmaxRule, "entropy": EntropyRule, "margin": MarginRule}
IMAGE_RULES = ("tgem", "learned_confidence")
POLICIES = (*IMAGE_RULES, *BANK_RULES, "fixed")


def exits_within(
    rates: np.ndarray, looked: Sequence[int], max_rate: float | None
) -> tuple[tuple[int, ...], int | None]:
    """Choose the exits at which images may leave under a cap.

    Rates need not ascend: an exit before the last can cost more than the whole encoder, since its head and gates are
    paid as well. Images pass such an exit and leave at a later one. Its gate is not evaluated, but rates still count
    it, so that they are upper bounds.

    Args:
        rates: Relative cost of every exit `[E]`.
        looked: Exits (0-based) at which the policy is asked.
        max_rate: Cap, or None.

    Returns:
        The exits of `looked` that the cap allows, and the one of them at which all remaining images must leave; None
        where the cap allows the whole encoder.

    Raises:
        UserError: The cap allows no exit.
    """
    if max_rate is None:
        return tuple(looked), None
    within = tuple(k for k in looked if rates[k] <= max_rate)
    if rates[-1] <= max_rate:
        return within, None
    if not within:
        cheapest = min(rates[k] for k in looked)
        raise UserError(
            f"max_rate {max_rate:g} is below the cheapest exit of this model, which costs {cheapest:.4f} of the "
            "encoder; raise it"
        )
    return within, within[-1]
