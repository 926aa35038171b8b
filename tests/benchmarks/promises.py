"""What promises of quality from one's own images cost, by the ways of making them (docs/method.md#promises-of-quality).

Prints mean rates over random draws of newly generated images of a demo set. Without texts, a promise is about the ten
nearest neighbours of the next 1,000 images, made by the bound on the sum of losses and by bets; `hindsight` is the
cheapest point of the same path at which 2,000 other images keep it. With texts it is about the best of 40 texts, with
half of the images fitted on, with more careful points ahead of the path, and with these and a third fitted on. `broken`
counts sets of 1,000 other images, two per draw, on which a promise by bets, or of the last way with texts, failed.

    tgems export demo-vit-12 my-tgem && python tests/benchmarks/promises.py my-tgem scenes
    python tests/benchmarks/promises.py my-tgem scenes --policy margin --texts --images 200 500
"""

import argparse
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from tgems.demo.datasets import samples
from tgems.demo.scenes import COLORS, VALUES
from tgems.evaluation.graded_losses import certified_point
from tgems.evaluation.risk_control import allowed_losses, certified_points
from tgems.policies.cached_outputs import CachedOutputs
from tgems.policies.careful_path import careful_path
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.lost_texts import lost_texts
from tgems.policies.operating_point import OperatingPoint
from tgems.policies.registry import POLICIES
from tgems.runtime.model import EarlyExitCLIP
from tgems.runtime.neighbour_losses import NeighbourLosses
from tgems.runtime.own_fit import with_own_bank
from tgems.runtime.own_outputs import own_outputs, text_embeddings
from tgems.runtime.tgem_info import NEIGHBOURS

UPCOMING, LEVEL, OTHERS, TARGET = 1000, 0.05, 2000, 0.6


def outputs_on(model: EarlyExitCLIP, policy: ThresholdPolicy, dataset: str, n: int, texts: bool) -> CachedOutputs:
    """Encode newly generated images of a demo set."""
    drawn = samples(dataset, "train" if dataset == "scenes" else "test", n, 77)
    images = [model.backbone.preprocess(Image.open(io.BytesIO(one.image)).convert("RGB")) for one in drawn]
    words = [f"a {color} {value}" for color in COLORS for value in VALUES]
    bank = text_embeddings(model.backbone, words) if texts else None
    return own_outputs(model.backbone, model.early_exit, policy, torch.stack(images).split(256), bank, [TARGET])


def by_neighbours(
    policy: ThresholdPolicy,
    fitting: CachedOutputs,
    rest: CachedOutputs,
    others: CachedOutputs,
    tolerances: Sequence[float],
) -> list[tuple[list[float], list[bool]]]:
    """Return the rates of the ways without texts for each tolerance, and which promises were broken."""
    path = careful_path(policy, with_own_bank(policy, fitting), TARGET)
    certifying, upcoming = (NeighbourLosses(policy, fitting, some, NEIGHBOURS, path) for some in (rest, others))
    points = range(len(path))
    losses, later = (np.stack([some.at(point) for point in points], 1) for some in (certifying, upcoming))
    expected, found = certifying.of_collection(), []
    for tolerance in tolerances:
        bound = certified_points(losses, allowed_losses(len(rest), tolerance, UPCOMING, LEVEL, binary=False)) - 1
        bets = certified_point(expected, lambda point: losses[:, point], len(rest), tolerance, UPCOMING, LEVEL)
        best = int(np.flatnonzero(later.mean(0) <= tolerance).max(initial=-1))
        rates = [rate_of(policy, others, path, point, 0) for point in (bound, bets, best)]
        found.append((rates, broken(later, bets, tolerance)))
    return found


def by_texts(
    policy: ThresholdPolicy, own: CachedOutputs, others: CachedOutputs, tolerances: Sequence[float]
) -> list[tuple[list[float], list[bool]]]:
    """Return the rates of the ways with texts for each tolerance, and which promises of the last way were broken."""
    found: list[tuple[list[float], list[bool]]] = [([], []) for _ in tolerances]
    for share, careful in ((2, False), (2, True), (3, True)):
        fitting, rest = (
            own.select(torch.arange(len(own) // share)),
            own.select(torch.arange(len(own) // share, len(own))),
        )
        path = careful_path(policy, fitting, TARGET) if careful else policy.path(fitting, [TARGET])
        losses, later = lost_texts(policy, rest, path), lost_texts(policy, others, path)
        for place, tolerance in enumerate(tolerances):
            point = certified_points(losses, allowed_losses(len(rest), tolerance, UPCOMING, LEVEL)) - 1
            rates = [*found[place][0], rate_of(policy, others, path, point, len(own.bank))]
            found[place] = rates, broken(later, point, tolerance)
    return found


def rate_of(policy: ThresholdPolicy, on: CachedOutputs, path: Sequence[OperatingPoint], point: int, bank: int) -> float:
    """Return the mean rate of images at a point; 1 for the full encoder."""
    if point < 0:
        return 1.0
    return float(policy.costs(on.costs, bank, path[point].visited)[policy.decide(on, path[point]).numpy()].mean())


def broken(later: np.ndarray, point: int, tolerance: float) -> list[bool]:
    """Return whether each thousand of other images loses more than was promised; empty if nothing was promised."""
    return [] if point < 0 else [bool(part[:, point].mean() > tolerance + 1e-9) for part in np.split(later, 2)]


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a T-GEM")
    parser.add_argument("dataset", choices=["scenes", "digits", "relations", "colors"])
    parser.add_argument("--policy", default="tgem", help="policy with a threshold")
    parser.add_argument("--texts", action="store_true")
    parser.add_argument("--images", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9, 0.95])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    policy, tolerances = POLICIES.get(chosen.policy), [1 - keep for keep in chosen.keep]
    if not isinstance(policy, ThresholdPolicy):
        parser.error(f"--policy {chosen.policy}: is not a policy with a threshold")
    pool = max(chosen.images) + OTHERS
    outputs = outputs_on(EarlyExitCLIP.from_pretrained(chosen.model), policy, chosen.dataset, 2 * pool, chosen.texts)
    ways = "half fitted on, points ahead, a third fitted on" if chosen.texts else "bound, bets, hindsight"
    for n in chosen.images:
        found = []
        for draw in range(chosen.draws):
            order = torch.from_numpy(np.random.default_rng([n, draw]).permutation(len(outputs)))
            own, others = outputs.select(order[:n]), outputs.select(order[n : n + OTHERS])
            if chosen.texts:
                found.append(by_texts(policy, own, others, tolerances))
            else:
                halves = own.select(torch.arange(n // 2)), own.select(torch.arange(n // 2, n))
                found.append(by_neighbours(policy, *halves, others, tolerances))
        for keep, results in zip(chosen.keep, zip(*found, strict=True), strict=True):
            rates = " ".join(f"{rate:.3f}" for rate in np.mean([rates for rates, _ in results], 0))
            failed = [one for _, failures in results for one in failures]
            print(f"{n} images, keep {keep:g}: {ways}: {rates}; broken {sum(failed)} of {len(failed)}", flush=True)


if __name__ == "__main__":
    main()
