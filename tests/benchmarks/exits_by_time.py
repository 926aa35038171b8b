"""Print the quality that fewer exits cost at the same rate: tests/benchmarks/exits_by_time.py [RESULTS] [BACKBONE].

Thresholds are fitted on validation images and applied to test images of a finished run, as means over its seeds. Sets
of exits are those of `tgems.runtime.exits_by_time.spread_exits`, by their number; which number is worth its time
depends on the machine and the batch size.
"""

import argparse
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from tgems.costs.saved_costs import read_costs
from tgems.evaluation.metrics import text_to_image_ranks
from tgems.evaluation.split import Split, Trained
from tgems.features.cache import load_features
from tgems.policies.chosen_exits import fit_among
from tgems.policies.registry import POLICIES
from tgems.runtime.exits_by_time import spread_exits

RATES = (0.45, 0.6, 0.75)
NUMBERS = (1, 2, 3, 5, None)
POLICY_NAMES = ("tgem", "tgem_bank", "margin")


def read_split(results: Path, backbone: str, dataset: str, part: str, seed: int) -> Split:
    """Read one split with the modules of one seed."""
    costs = read_costs(results / f"profiling/{backbone}/default/macs.json")
    features = load_features(results / f"features/{backbone}/{dataset}/{part}")
    trained = Trained(results / f"exits/{backbone}/default", [seed], list(RATES), ["image", "bank"], "staged")
    modules = trained.shared(seed, features.manifest["weights"])
    return Split(features.at_exits(costs.blocks, costs.summary_dim), costs, modules, seed)


def quality(results: Path, backbone: str, dataset: str, seed: int) -> list[dict]:
    """Evaluate all policies, rates and numbers of exits on one data set with the modules of one seed."""
    validation, test = (read_split(results, backbone, dataset, part, seed) for part in ("validation", "test"))
    rows = []
    for name in POLICY_NAMES:
        policy = POLICIES[name]
        prices = partial(policy.costs, test.costs, len(validation.outputs.bank))
        for rate in RATES:
            for number in NUMBERS:
                every = tuple(range(len(test.costs.blocks) - 1))
                exits = every if number is None else spread_exits(prices(()), rate, number)
                (point,) = fit_among(policy, validation.outputs, [rate], exits)
                taken = policy.decide(test.outputs, point)
                images = torch.arange(len(taken))
                found = {"dataset": dataset, "policy": name, "target": rate, "exits": number or "all", "seed": seed}
                found["rate"] = float(prices(point.visited or every)[taken.numpy()].mean())
                found["accuracy or R@1"] = float((test.ranks[images, taken] < 1).double().mean())
                if test.truth.labels is None and policy.index_safe:
                    z = test.embeddings[images, taken]
                    ranks = text_to_image_ranks(z, test.truth.texts, test.truth.image_of_text)
                    found["text to image"] = float((ranks < 1).double().mean())
                rows.append(found)
    return rows


def main() -> None:
    """Print one row per data set, policy and number of exits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("backbone", nargs="?", default="demo-vit-12")
    parser.add_argument("--datasets", nargs="+", default=["digits", "handwriting", "scenes"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for dataset in given.datasets
        for seed in given.seeds
        for row in quality(given.results, given.backbone, dataset, seed)
    ]
    keys = ["dataset", "policy", "exits", "target"]
    table = pd.DataFrame(rows).drop(columns="seed").groupby(keys, sort=False).mean().unstack("target").round(3)
    print(table.to_string(na_rep=""))


if __name__ == "__main__":
    main()
