"""AdamW on a one-cycle schedule, equal to torch's classes bit for bit but without importing torch's compiler."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

RISE = 0.1
MOMENTUM = (0.95, 0.85)


class OneCycleAdamW:
    """AdamW whose learning rate rises to a peak and falls to zero by cosines, while its momentum does the opposite.

    Equal to `torch.optim.AdamW(..., fused=True)` with `torch.optim.lr_scheduler.OneCycleLR(..., pct_start=0.1)` bit for
    bit. Creating a `torch.optim.Optimizer` imports torch's compiler, which takes longer than many training jobs; the
    function `torch.optim.adamw.adamw`, which does the arithmetic in both, does not.

    Args:
        parameters: Parameters, which are updated in place; those without a gradient are left unchanged.
        peak: Highest learning rate.
        weight_decay: Weight decay of every parameter.
        steps: Number of steps of the cycle, at least 20.
    """

    def __init__(self, parameters: Iterable[Tensor], peak: float, weight_decay: float, steps: int):
        self.parameters, self.peak, self.weight_decay, self.steps = list(parameters), peak, weight_decay, steps
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._counts = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]
        self._taken = 0

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters, and advance the schedule by one step."""
        own = (self.parameters, self._means, self._squares, self._counts)
        moved = [each for each in zip(*own, strict=True) if each[0].grad is not None]
        rate, momentum = self._schedule(self._taken)
        adamw(
            [parameter for parameter, *_ in moved],
            [parameter.grad for parameter, *_ in moved if parameter.grad is not None],
            [mean for _, mean, *_ in moved],
            [square for *_, square, _ in moved],
            [],
            [count for *_, count in moved],
            fused=True,
            amsgrad=False,
            beta1=momentum,
            beta2=0.999,
            lr=rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )
        self._taken += 1

    def _schedule(self, step: int) -> tuple[float, float]:
        """Return learning rate and momentum (beta 1) of a step."""
        lowest, top = self.peak / 25.0, RISE * self.steps - 1
        if step <= top:
            share = step / top
            return _anneal(lowest, self.peak, share), _anneal(*MOMENTUM, share)
        share = (step - top) / (self.steps - 1 - top)
        return _anneal(self.peak, lowest / 1e4, share), _anneal(MOMENTUM[1], MOMENTUM[0], share)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
