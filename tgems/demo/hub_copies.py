"""Write repositories like those of `configs/laptop.yaml`, with generated images and random weights."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from PIL import Image

from tgems.architectures.open_clip_config import CONFIG_NAME
from tgems.backbones.hub_files import WEIGHTS
from tgems.data.dataset_entries import given
from tgems.data.webdataset import Prompts, Sample, write_prompts, write_split
from tgems.demo.photographs import samples
from tgems.outputs import whole_folder, write_json

TEMPLATES = ("a photo of a {c}.", "a drawing of a {c}.")
"""Prompt templates of all data sets with classes."""


@dataclass(frozen=True)
class SmallCopy:
    """A data set of the hub with few images.

    Attributes:
        shards: Number of shards of each split, as on the hub.
        images: Number of images of a shard.
        classes: Number of classes, or 0 for a set with captions.
        size: Width and height of images; None for photographs of 500 x 375 or 375 x 500 pixels.
    """

    shards: dict[str, int]
    images: dict[str, int]
    classes: int = 0
    size: tuple[int, int] | None = None


COPIES = {
    "flickr8k": SmallCopy({"train": 4, "test": 1}, {"train": 12, "test": 24}),
    "cifar10": SmallCopy({"train": 5, "test": 1}, {"train": 30, "test": 40}, 10, (32, 32)),
    "caltech101": SmallCopy({"train": 1, "test": 1}, {"train": 34, "test": 51}, 102, (300, 225)),
    "pets": SmallCopy({"train": 1, "test": 1}, {"train": 37, "test": 37}, 37),
}
"""Small copies of data sets that are known by name. Their classes have numbers instead of names."""


def repository(dataset: str) -> str:
    """Return the repository of a data set that is known by name."""
    return given()[dataset]["source"].removeprefix("hub:")


def write_copy(dataset: str, folder: Path, seed: int = 0) -> None:
    """Write the small copy of a data set unless it is there. Equal seeds give equal bytes.

    Args:
        dataset: A key of `COPIES`.
        folder: Folder to write.
        seed: Seed of all draws.
    """
    if folder.is_dir():
        return
    copy = COPIES[dataset]
    with whole_folder(folder) as partial:
        names = tuple(f"class {i}" for i in range(copy.classes))
        write_prompts(partial, Prompts(names, TEMPLATES) if names else None)
        for split, shards in copy.shards.items():
            n = shards * copy.images[split]
            write_split(_samples(copy, split, n, seed), partial / split, copy.images[split])


def _samples(copy: SmallCopy, split: str, n: int, seed: int) -> Iterator[Sample]:
    """Draw the samples of one split; images of classes are lossless WebP, as on the hub, and classes take turns."""
    if not copy.classes:
        yield from samples("retrieval", split, n, seed)
        return
    for index, sample in enumerate(islice(samples("classification", split, n, seed), n)):
        image, buffer = Image.open(io.BytesIO(sample.image)), io.BytesIO()
        (image.resize(copy.size) if copy.size else image).save(buffer, "WEBP", lossless=True, method=0)
        yield replace(sample, image=buffer.getvalue(), suffix="webp", label=index % copy.classes)


def write_weights(model: str, tag: str, folder: Path) -> None:
    """Write random weights of an architecture as the hub stores a model, unless they are there.

    Args:
        model: Name of an open_clip architecture.
        tag: Tag of the weights for which they stand, whose preprocessing is stored beside them.
        folder: Folder to write.
    """
    if folder.is_dir():
        return
    from open_clip import get_model_config, get_pretrained_cfg
    from safetensors.torch import save_file

    from tgems.architectures.catalog import read_architecture
    from tgems.backbones.load import build_model

    published = get_pretrained_cfg(model, tag)
    preprocess = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    with whole_folder(folder) as partial:
        state = build_model(read_architecture(model), model).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS[0])
        write_json(partial / CONFIG_NAME, {"model_cfg": get_model_config(model), "preprocess_cfg": preprocess})
