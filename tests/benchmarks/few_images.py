"""How much training heads need when there are few images, from random weights and from a ridge regression.

Prints recall at 1 on test images, as the mean of image to text and text to image and of all exits before the last, for
heads that are trained on the first images of the training split. `frozen` is the frozen projection, and `0 passes` the
regression itself.

    python tests/benchmarks/few_images.py results/features/demo-vit-12/scenes
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from tgems.config.training import HeadOptions
from tgems.exits.head_training import train_heads
from tgems.exits.modules import ExitHeads
from tgems.exits.ridge_start import start_from_ridge
from tgems.exits.training_pairs import Pairs
from tgems.features.cache import FeatureSet, load_features


def first_images(pairs: Pairs, n: int) -> Pairs:
    """Return the first n images with their captions."""
    rows = torch.arange(n)
    parts = {"last": pairs.last[:n], "first": pairs.first[: n + 1], "longest": pairs.longest[:n]}
    return dataclasses.replace(pairs, summaries=pairs.summaries[rows], **parts)


def recall(z: Tensor, test: FeatureSet) -> float:
    """Return the mean recall at 1 in both directions and over exits of embeddings `[n, E, D]`."""
    texts = test.texts[torch.from_numpy(test.captions["text"].to_numpy().copy())]
    own = torch.from_numpy(test.captions["image"].to_numpy().copy())
    found = []
    for at_exit in z.unbind(1):
        scores = at_exit.float() @ texts.T
        found += [
            (own[scores.argmax(1)] == torch.arange(len(z))).float().mean(),
            (scores.argmax(0) == own).float().mean(),
        ]
    return float(torch.stack(found).mean())


@torch.no_grad()
def regression(pairs: Pairs, hidden: int) -> ExitHeads:
    """Return heads that are the ridge regression."""
    heads = ExitHeads(*pairs.summaries.shape[1:], hidden, pairs.last.shape[1], pairs.widths)
    pairs.prepare(heads.norm)
    start_from_ridge(heads, pairs, whiten=True)
    heads.fold(pairs.whitening)
    return heads


@torch.no_grad()
def show(name: str, heads: ExitHeads, test: FeatureSet) -> None:
    """Print what heads reach."""
    print(f"{name}: {recall(heads(test.summaries[torch.arange(len(test.samples))]), test):.3f}", flush=True)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="features of a data set with splits train and test")
    parser.add_argument("--images", type=int, nargs="+", default=[120, 600, 3000])
    parser.add_argument("--passes", type=int, nargs="+", default=[12, 24, 48, 96, 192, 384])
    parser.add_argument("--most-steps", type=int, default=1200, help="longer training is left out")
    parser.add_argument("--hidden", type=int, default=512)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    train, test = load_features(chosen.features / "train"), load_features(chosen.features / "test")
    if test.raw_embeddings is not None:
        print(f"frozen: {recall(test.raw_embeddings[torch.arange(len(test.samples))], test):.3f}", flush=True)
    rates = torch.linspace(0, 1, test.summaries.shape[1] + 1)
    for n in chosen.images:
        pairs = first_images(Pairs.of(train), n)
        show(f"{n} images, ridge, 0 passes", regression(pairs, chosen.hidden), test)
        for start in ("random", "ridge"):
            for passes in chosen.passes:
                options = HeadOptions(hidden=chosen.hidden, passes=passes, start=start)
                steps = passes * (n // min(n, options.batch_size))
                if steps <= chosen.most_steps:
                    heads, _ = train_heads(pairs, rates, options, 0)
                    show(f"{n} images, {start}, {passes} passes, {steps} steps", heads, test)


if __name__ == "__main__":
    main()
