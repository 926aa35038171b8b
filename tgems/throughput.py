"""Measure how fast one core of this machine encodes images and trains exit modules. Needs no network and no data."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

TRAINING_SHARE = 4 / 3
"""Throughput of training relative to that of encoding, assumed where only the latter is known."""
START = 3.0
"""Seconds that a job takes to start, assumed where they are not measured."""


@dataclass(frozen=True)
class Throughput:
    """The speed of one core of a machine.

    Attributes:
        encoding: Multiply-accumulates per second of an encoder.
        training: Multiply-accumulates per second in training heads and gates.
        start: Seconds that a job takes to start, mostly for imports.
    """

    encoding: float
    training: float
    start: float

    @classmethod
    def given(cls, encoding: float) -> "Throughput":
        """Return the throughput of a machine, given only that of encoding."""
        return cls(encoding, TRAINING_SHARE * encoding, START)


def measure(backbone: dict, macs: float, batch_size: int, head: tuple[int, int, int], seconds: float) -> Throughput:
    """Measure the throughput of one core.

    Args:
        backbone: Entry of the configuration. Weights that would have to be downloaded are replaced by random ones.
        macs: Multiply-accumulates of the image encoder for one image.
        batch_size: Number of images per forward pass.
        head: Number of heads, inputs of a head, and its hidden units and outputs together.
        seconds: Duration of the measurement, not counting the time to build the model.
    """
    import torch

    from tgems.backbones.load import load_backbone
    from tgems.backbones.references import weights_form
    from tgems.exits.training_loop import products_in
    from tgems.features.encode import encode_images

    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import tgems.exits.training_jobs"], check=True)
    start = time.perf_counter() - begun
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        remote = weights_form(backbone["pretrained"]) in ("tag", "hf-hub")
        loaded = load_backbone(backbone | {"pretrained": "random"} if remote else backbone)
        images = torch.randn(batch_size, *loaded.preprocess(_blank()).shape)
        encoded = _per_second(lambda: encode_images(loaded.tower, images, loaded.blocks), seconds / 2)
        heads, inputs, outputs = head
        summaries = torch.randn(heads, 256, inputs)
        weights = torch.randn(heads, inputs, outputs, requires_grad=True)
        optimizer = torch.optim.SGD([weights], lr=1e-9)

        def step() -> None:
            optimizer.zero_grad()
            (summaries @ weights).square().mean().backward()
            optimizer.step()

        with products_in("bfloat16"):
            steps = _per_second(step, seconds / 2)
    finally:
        torch.set_num_threads(threads)
    return Throughput(batch_size * macs * encoded, 2 * summaries.numel() * outputs * steps, start)


def _blank():
    """Return a blank image."""
    from PIL import Image

    return Image.new("RGB", (256, 256))


def _per_second(call: Callable, seconds: float) -> float:
    """Return how often a function can be called per second, after a warm-up call."""
    call()
    begun, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds or not calls:
        call()
        calls += 1
    return calls / elapsed
