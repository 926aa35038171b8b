"""Throughput of early exit with and without buffers, beside the full encoder at the same batch size.

    python tests/benchmarks/buffering.py                              # 2,000 images at three rates, about half an hour
    python tests/benchmarks/buffering.py --images 200 --rates 0.6     # under a minute

All three encode the same random images on one thread, some batches each in turn. Exits are drawn for each rate as for
the table `latency`, and gates are asked all the same. Printed is the share of 1 / rate that became throughput, by total
process time and by the medians of the turns: of early exit batch by batch, and of a stream at full batches.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch.nn import functional as F

from tgems.backbones.load import load_backbone
from tgems.backbones.references import model_config
from tgems.costs.exit_costs import module_costs
from tgems.exits.losses import exit_weights
from tgems.exits.modules import ExitHeads, LookaheadGates
from tgems.policies.trained_gates import TGem
from tgems.runtime.buffered_engine import encode_stream
from tgems.runtime.engine import encode_early
from tgems.runtime.latency import draw_exits
from tgems.runtime.live_view import ExitDecider

HIDDEN, GATE_HIDDEN = 512, 16
TURN = 5  # batches


def make_decider(model: str) -> ExitDecider:
    """T-GEM with random weights and the sizes of `configs/latency.yaml`."""
    hidden = {"heads": {"hidden": HIDDEN}, "image_gates": {"hidden": GATE_HIDDEN}, "bank_gates": {"hidden": 1}}
    modules = hidden | {"exits": "all", "summary": {"grid": 2}, "training": {"scheme": "staged"}}
    costs = module_costs(model_config({"model": model}), modules)
    n = len(costs.blocks) - 1
    heads = ExitHeads(n, costs.summary_dim, HIDDEN, costs.embed_dim)
    gates = LookaheadGates(n, costs.summary_dim, GATE_HIDDEN, costs.fixed().tolist())
    for module in (heads, gates):
        module.eval().requires_grad_(False)
    return ExitDecider(TGem(), costs, heads, gates, dict.fromkeys(range(n), 0.0), tuple(range(n)))


def in_turn(encoders: dict[str, Iterator]) -> dict[str, list[float]]:
    """Process seconds of every turn, by encoder; each turn takes the results of some batches."""
    times: dict[str, list[float]] = {name: [] for name in encoders}
    taken = TURN
    while taken:
        for name, results in encoders.items():
            start = time.process_time()
            taken = len(list(islice(results, TURN)))
            if taken:
                times[name].append(time.process_time() - start)
    return times


def measure(tower, decider: ExitDecider, rate: float, images: int, batch_size: int) -> None:
    """Measure one rate and print a line for each kind of early exit."""
    rates = decider.costs.image_guided()
    exits = torch.from_numpy(draw_exits(exit_weights(torch.from_numpy(rates).float(), rate).numpy(), images))
    pixels = torch.randn(batch_size, 3, *tower.image_size)
    batches = [pixels[: len(part)] for part in exits.split(batch_size)]
    pairs = list(zip(batches, exits.split(batch_size), strict=True))
    encoders = {
        "full": (F.normalize(tower.encode(batch), dim=-1) for batch in batches),
        "batch by batch": (encode_early(tower, decider, batch, planned=planned) for batch, planned in pairs),
        "stream": encode_stream(tower, decider, batches, batch_size, planned=exits),
    }
    times = in_turn(encoders)
    realised = rates[exits.numpy()].mean()
    for name in ("batch by batch", "stream"):
        total = sum(times["full"]) / sum(times[name]) * realised
        medians = statistics.median(times["full"]) / statistics.median(times[name]) * realised
        speed = images / sum(times[name])
        print(
            f"rate {realised:.3f}  {name:15} {speed:6.2f} images/s  of 1 / rate: {total:.3f}, by medians {medians:.3f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.45, 0.6, 0.75])
    parser.add_argument("--model", default="ViT-B-32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = load_backbone({"model": given.model, "pretrained": "random"})
    with torch.inference_mode():
        warm = torch.randn(given.batch_size, 3, *backbone.tower.image_size)
        decider = make_decider(given.model)
        backbone.tower.encode(warm)
        for target in given.rates:
            measure(backbone.tower, decider, target, given.images, given.batch_size)
