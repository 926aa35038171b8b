"""Compare the throughput of early exit with and without buffers with that of the full encoder at the same batch size.

    python tests/benchmarks/buffering.py                            # 2,000 images at three rates, a quarter of an hour
    python tests/benchmarks/buffering.py --images 200 --rates 0.6   # under a minute
    python tests/benchmarks/buffering.py --threads 2 --wall         # wall-clock time of two threads
    python tests/benchmarks/buffering.py --model local-dir:assets/backbones/demo-vit-12 --hidden 256 --rates 0.3 0.6

All three encode the same random images and alternate after some batches. Exits are drawn for each rate as for the table
`latency`, and gates are still evaluated. The script prints the share of 1 / rate that became throughput, by the sum and
by the median of the time of all turns, for early exit batch by batch and for a stream at full batches.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.backbones.load import load_backbone
from tgems.backbones.references import model_config
from tgems.backbones.towers import Tower
from tgems.costs.exit_costs import module_costs
from tgems.exits.losses import exit_weights
from tgems.exits.modules import ExitHeads, LookaheadGates
from tgems.policies.trained_gates import TGem
from tgems.runtime.buffered_engine import encode_stream
from tgems.runtime.drawn_exits import draw_exits
from tgems.runtime.engine import encode_early
from tgems.runtime.live_view import ExitDecider

FULL, SINGLE, STREAM = "full", "batch by batch", "stream"
GATE_HIDDEN = 16
TURN = 5  # batches


def make_decider(backbone: dict, head_hidden: int) -> ExitDecider:
    """T-GEM with random weights."""
    hidden = {"heads": {"hidden": head_hidden}, "image_gates": {"hidden": GATE_HIDDEN}, "bank_gates": {"hidden": 1}}
    modules = hidden | {"exits": "all", "summary": {"grid": 2}, "training": {"scheme": "staged"}}
    costs = module_costs(model_config(backbone), modules)
    n = len(costs.blocks) - 1
    heads = ExitHeads(n, costs.summary_dim, head_hidden, costs.embed_dim)
    gates = LookaheadGates(n, costs.summary_dim, GATE_HIDDEN, costs.fixed().tolist())
    for module in (heads, gates):
        module.eval().requires_grad_(False)
    return ExitDecider(TGem(), costs, heads, gates, dict.fromkeys(range(n), 0.0), tuple(range(n)))


class Turns:
    """Batches for a stream; between its turns, the other encoders take theirs on the same batches.

    Args:
        batches: Images and planned exits.
        others: Functions of images and planned exits, by name.
        clock: Returns seconds.

    Attributes:
        times: Seconds of every turn, by encoder.
        ended: Time when the last batch had been taken.
    """

    def __init__(
        self,
        batches: list[tuple[Tensor, Tensor]],
        others: dict[str, Callable[[Tensor, Tensor], object]],
        clock: Callable[[], float],
    ):
        self.batches, self.others, self.clock = batches, others, clock
        self.times: dict[str, list[float]] = {name: [] for name in (*others, STREAM)}

    def __iter__(self) -> Iterator[Tensor]:
        for first in range(0, len(self.batches), TURN):
            turn = self.batches[first : first + TURN]
            for name, encode in self.others.items():
                with self._timed(name):
                    for images, planned in turn:
                        encode(images, planned)
            with self._timed(STREAM):
                for images, _ in turn:
                    yield images
        self.ended = self.clock()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.times[name].append(self.clock() - start)


def measure(
    tower: Tower,
    decider: ExitDecider,
    rate: float,
    images: int,
    batch_size: int,
    clock: Callable[[], float] = time.process_time,
) -> None:
    """Measure one rate and print a line for each kind of early exit."""
    rates = decider.costs.image_guided()
    exits = torch.from_numpy(draw_exits(exit_weights(torch.from_numpy(rates).float(), rate).numpy(), images))
    pixels = torch.randn(batch_size, 3, *tower.image_size)
    others = {
        FULL: lambda batch, _: F.normalize(tower.encode(batch), dim=-1),
        SINGLE: lambda batch, planned: encode_early(tower, decider, batch, planned=planned),
    }
    turns = Turns([(pixels[: len(part)], part) for part in exits.split(batch_size)], others, clock)
    results = encode_stream(tower, decider, turns, batch_size, planned=exits)
    assert torch.equal(torch.cat([encoded.exits for encoded in results]), exits)
    turns.times[STREAM][-1] += clock() - turns.ended  # images that still waited
    realised = rates[exits.numpy()].mean()
    for name in (SINGLE, STREAM):
        full, early = turns.times[FULL], turns.times[name]
        share, medians = (
            sum(full) / sum(early) * realised,
            statistics.median(full) / statistics.median(early) * realised,
        )
        speed = f"{images / sum(full):.2f} -> {images / sum(early):.2f} images/s"
        print(
            f"rate {realised:.3f}, {name:14}: {speed}, {share:.3f} of 1 / rate (by medians {medians:.3f})", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.45, 0.6, 0.75])
    parser.add_argument("--model", default="ViT-B-32", help="architecture, for random weights; or local-dir:FOLDER")
    parser.add_argument("--hidden", type=int, default=512, help="hidden width of the heads")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="measure wall-clock time, on a quiet machine")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.perf_counter if given.wall else time.process_time
    torch.manual_seed(0)
    random = {"model": given.model, "pretrained": "random"}
    entry = {"pretrained": given.model} if ":" in given.model else random
    tower, decider = load_backbone(entry).tower, make_decider(entry, given.hidden)
    with torch.inference_mode():
        tower.encode(torch.randn(given.batch_size, 3, *tower.image_size))
        for target in given.rates:
            measure(tower, decider, target, given.images, given.batch_size, clock)
