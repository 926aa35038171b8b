"""Count MACs by tracing with fvcore. This is the only module that imports fvcore.

fvcore's "flops" are multiply-accumulates. By default it misses multi-head attention, because torch's fast path is a
single opaque operation, and because fvcore has no handle for scaled dot-product attention. This module disables the
fast path while tracing and adds a handle. Operations that count as free are listed in `ZERO_COST`, and any other
operation that fvcore does not know is an error.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod

import torch
from torch import nn

from tgems.backbones.states import State, state_of, tensors_of
from tgems.backbones.towers import Tower
from tgems.costs.closed_form import EncoderCost

NORMALISATION = ("layer_norm", "batch_norm", "group_norm")
ZERO_COST = frozenset(
    f"aten::{name}"
    for name in (
        "add add_ sub mul mul_ div rsub neg pow sum mean clamp clamp_min gelu relu sigmoid tanh exp log softmax "
        "unflatten expand expand_as repeat linalg_vector_norm norm argmax amax diagonal le gather pad feature_dropout "
        "dropout avg_pool2d silu argsort sort scatter scatter_add fill_ ones_like index_select"
    ).split()
)


class UnsupportedOperationError(RuntimeError):
    """Raised for an operation that fvcore cannot count and that is not listed in `ZERO_COST`."""


@dataclass(frozen=True)
class MacCount:
    """MACs of matrix products and convolutions, and separately fvcore's count for normalisation layers."""

    macs: int
    normalisation: int

    def __add__(self, other: "MacCount") -> "MacCount":
        return MacCount(self.macs + other.macs, self.normalisation + other.normalisation)


def count_macs(module: nn.Module, inputs: tuple) -> MacCount:
    """Count the MACs of one forward pass.

    Args:
        module: Any module. It is traced in eval mode without gradients.
        inputs: Positional arguments of the forward pass.

    Raises:
        UnsupportedOperationError: An operation is neither counted nor listed in `ZERO_COST`.
    """
    from fvcore.nn import FlopCountAnalysis

    was_training = module.training
    with _fast_path_off(), torch.no_grad():
        analysis = FlopCountAnalysis(module.eval(), inputs)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        operators = analysis.by_operator()
        unknown = {op: n for op, n in analysis.unsupported_ops().items() if op not in ZERO_COST}
    module.train(was_training)
    if unknown:
        listed = ", ".join(f"{op} x {n}" for op, n in sorted(unknown.items()))
        raise UnsupportedOperationError(
            f"{type(module).__name__}: fvcore cannot count {listed}; add a handle for it, or list it in ZERO_COST"
        )
    normalisation = sum(operators[n] for n in NORMALISATION if n in operators)
    return MacCount(round(sum(operators.values()) - normalisation), round(normalisation))


def count_encoder(tower: Tower) -> EncoderCost:
    """Count the MACs of a tower for one image by tracing its steps; the values of its parameters do not matter."""
    state: State = torch.zeros(1, 3, *tower.image_size)
    counts: list[MacCount] = []
    steps: list[Callable] = [tower.stem, *(partial(tower.block, k) for k in range(tower.depth))]
    was_training = tower.visual.training
    tower.visual.eval()
    with torch.no_grad():
        for step in steps:
            counts.append(count_macs(Step(tower.visual, step), tensors_of(state)))
            state = step(state)
        finish, embedding = count_macs(Step(tower.visual, tower.finish), tensors_of(state)), tower.finish(state)
    tower.visual.train(was_training)
    upto = list(accumulate(counts))[1:]
    return EncoderCost(
        blocks=tuple(c.macs for c in upto),
        finish=finish.macs,
        blocks_normalisation=tuple(c.normalisation for c in upto),
        finish_normalisation=finish.normalisation,
        widths=tower.widths,
        embed_dim=embedding.shape[-1],
    )


class Step(nn.Module):
    """Wraps one step of a tower in a module, so that it can be traced."""

    def __init__(self, visual: nn.Module, step: Callable):
        super().__init__()
        self.visual, self.step = visual, step
        self.training = visual.training

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Apply the step to the state that consists of these tensors."""
        return tensors_of(self.step(state_of(tensors)))


def _attention_macs(inputs: list, outputs: list) -> Counter:
    """Count the MACs of the products with keys and values, B H S T (d + d_v)."""
    query, key, value = (i.type().sizes() for i in inputs[:3])
    *batch, queries, dim = query
    return Counter({"scaled_dot_product_attention": prod(batch) * queries * key[-2] * (dim + value[-1])})


@contextmanager
def _fast_path_off() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
