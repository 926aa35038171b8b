"""Minimise a loss over shuffled batches: the one training loop of all exit modules."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tgems.config.training import Schedule
from tgems.errors import UserError
from tgems.exits.optimizer import OneCycleAdamW


def fit(
    module: nn.Module, loss_of: Callable, n: int, options: Schedule, seed: int, name: str, products: str = "float32"
) -> pd.DataFrame:
    """Minimise a loss over shuffled batches by AdamW on a one-cycle schedule, then freeze the module.

    Args:
        module: Module, which is trained in place.
        loss_of: Function of the indices of a batch and a generator that returns the loss `[]`.
        n: Number of examples; a last incomplete batch of a pass is dropped.
        options: Number of passes, batch size, learning rate and weight decay.
        seed: Seed of the order and of the generator of `loss_of`.
        name: Name of the module for the progress bar and messages.
        products: Precision of matrix products, see `products_in`.

    Returns:
        The loss every twenty steps and at the end.

    Raises:
        UserError: The loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = list(shuffled_batches(n, options.batch_size, options.passes, generator))
    trained = [p for p in module.parameters() if p.requires_grad]
    total = max(len(batches) + 1, 20)
    optimizer = OneCycleAdamW(trained, options.learning_rate, options.weight_decay, total)
    history = []
    with denormals_flushed(), products_in(products):
        for step, batch in enumerate(tqdm(batches, desc=f"{name}, seed {seed}", unit="step", mininterval=2)):
            loss = loss_of(batch, generator)
            if not torch.isfinite(loss):
                raise UserError(f"{name}: the loss is {loss.item()} at step {step}; lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            if step % 20 == 0 or step == len(batches) - 1:
                history.append({"step": step, "loss": loss.item()})
    module.eval().requires_grad_(False)
    return pd.DataFrame(history, columns=["step", "loss"])


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Treat denormal numbers as zero if the CPU can: products with them are many times slower and of no use."""
    before = (torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Multiply float32 matrices in `float32`, or in `bfloat16` with float32 sums if the CPU has units for that."""
    settings = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = settings.fp32_precision
    settings.fp32_precision = {"float32": "ieee", "bfloat16": "bf16"}[precision]
    try:
        yield
    finally:
        settings.fp32_precision = before


def shuffled_batches(n: int, batch_size: int, passes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices below `n`; a last incomplete batch of a pass is dropped."""
    size = min(batch_size, n)
    for _ in range(passes):
        order = torch.randperm(n, generator=generator)
        yield from order[: n // size * size].split(size)
