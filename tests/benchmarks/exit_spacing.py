"""Print how much faster early exit is than the full encoder, by the number of exits (docs/method.md#pareto).

taskset -c 1 python tests/benchmarks/exit_spacing.py [seconds]

Weights of heads and gates are random. Full encoder and early exit alternate on one core; times are medians of processor
time.
"""

import statistics
import sys
import time

import torch

from tgems.backbones.load import load_backbone
from tgems.exits.losses import exit_weights
from tgems.policies.registry import POLICIES
from tgems.runtime.drawn_exits import draw_exits
from tgems.runtime.engine import encode_early
from tgems.runtime.measured_settings import RandomModules
from tgems.workflow_config import complete_config, costs_of

NAME, RATE, TEXTS = "demo-vit-12", 0.64, 130
HIDDEN = {"heads": 256, "image_gates": 16, "bank_gates": 32}
CONFIG = {
    "seeds": [0],
    "rate_targets": [RATE],
    "backbones": {NAME: {"pretrained": f"local-dir:assets/backbones/{NAME}"}},
    "datasets": {"scenes": {"source": "demo", "task": "zeroshot_retrieval"}},
    "training": {"dataset": "scenes"},
    "policies": ["full"],
}
EXITS = {"every block": "all", "every other block": "every_other", "every third block": [3, 6, 9]}


def runs(batch_size: int) -> dict:
    """Return functions that encode a batch, by policy and exits, and the rate of each."""
    config = complete_config(CONFIG)
    tower = load_backbone(config["backbones"][NAME]).tower
    images = torch.randn(batch_size, 3, *tower.image_size)
    found = {("full", ""): (lambda: tower.encode(images), 1.0)}
    for spacing, exits in EXITS.items():
        costs = costs_of(complete_config(CONFIG | {"exits": exits}), NAME, "default")
        modules = RandomModules(costs, HIDDEN, "cpu")
        for name in ("tgem", "max_softmax"):
            prices = torch.from_numpy(POLICIES[name].costs(costs, TEXTS)).float()
            planned = torch.from_numpy(draw_exits(exit_weights(prices, RATE).numpy(), batch_size))
            decider = modules.decider(POLICIES[name], range(len(costs.blocks) - 1), TEXTS)
            found[name, spacing] = (
                lambda decider=decider, planned=planned: encode_early(tower, decider, images, planned=planned),
                float(prices[planned].mean()),
            )
    return found


@torch.inference_mode()
def main(seconds: float) -> None:
    """Measure batches of 8 and 64."""
    torch.set_num_threads(1)
    for batch_size in (8, 64):
        measured = runs(batch_size)
        times: dict = {key: [] for key in measured}
        end = time.monotonic() + seconds / 2
        while time.monotonic() < end:
            for key, (run, _) in measured.items():
                start = time.process_time()
                run()
                times[key].append(time.process_time() - start)
        full = statistics.median(times["full", ""])
        for (name, spacing), own in times.items():
            took, rate = statistics.median(own), measured[name, spacing][1]
            speed = f"{1000 * took / batch_size:.3f} ms per image, x {full / took:.2f}"
            print(f"batch of {batch_size}: {name} {spacing}, rate {rate:.2f}: {speed}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
