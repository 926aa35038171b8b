"""Estimate the memory and the time of the workflow's jobs, for executors that must be told both.

The estimates follow the sizes of the tensors that a job holds and the multiply-accumulates that it spends, and are
meant to be high rather than low: a job that asks for too little is killed. They change no result. Imports neither torch
nor open_clip, for dry runs.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

from tgems.architectures.catalog import positions_at_exits
from tgems.backbones.references import model_config
from tgems.costs.exit_costs import ExitCosts
from tgems.data.dataset_entries import given
from tgems.workflow_config import costs_of

UNKNOWN_IMAGES = 50_000
"""Assumed number of images of a split whose size is known only once it is fetched: that of ImageNet's test split."""
CAPTIONS = 5
"""Assumed number of captions of an image."""
SHARD_IMAGES = 10_000
"""Assumed number of images of a shard, whose features are held until it is complete."""

PROCESS_MB, TORCH_MB, WORKER_MB, CUDA_MB = 1_000, 2_000, 600, 3_000
"""Memory of Snakemake and pandas; of torch and its libraries; of a process that decodes; of a CUDA context."""
STREAMING_MB, RANKING_MB = 2_000, 1_000
"""Memory of the rows at hand where summaries are read from disk; of ranking texts for images and images for texts."""
POINT_MB = 0.004
"""Memory per image or caption in evaluation, for each seed and rate target: what every policy did with it."""
HEAD_COPIES, GATE_COPIES = 30, 8
"""Tensors as large as all heads in training heads and gates: modules, gradients, states of the optimizer, folds."""
CPU_MACS, TRAINING_MACS, GPU_MACS = 30e9, 40e9, 2e12
"""Multiply-accumulates per second: of encoding and of training on one core, and of encoding on a GPU."""
DECODED = 100
"""Images per second that one core decodes."""
EVALUATED = 4_000
"""Pairs of an image and an exit that one core evaluates per second, with all policies and resampling."""
LEAST_MINUTES, SAFETY = 15, 3
"""Minutes that every job asks for, and the factor by which it asks for more than the estimate."""


@dataclass(frozen=True)
class Needs:
    """The memory in MB and the time in minutes that a job asks for."""

    mem_mb: int
    runtime: int

    @classmethod
    def of(cls, megabytes: float, seconds: float = 0.0) -> "Needs":
        """Round estimates up to 100 MB and 5 minutes, with a margin on the time."""
        minutes = LEAST_MINUTES + SAFETY * seconds / 60
        return cls(ceil(megabytes / 100) * 100, ceil(minutes / 5) * 5)


@dataclass(frozen=True)
class Sizes:
    """Sizes on which memory and time depend.

    Attributes:
        exits: Number of exits E, the last included.
        embed_dim: Dimension D of embeddings.
        summary_dim: Length S of a summary.
        width: Number of channels of a token.
        macs: Multiply-accumulates of the full encoder for one image.
        heads: Multiply-accumulates of all heads for one image.
        positions: Number of tokens of an image.
    """

    exits: int
    embed_dim: int
    summary_dim: int
    width: int
    macs: float
    heads: float
    positions: int

    @classmethod
    def of(cls, costs: ExitCosts, positions: int) -> "Sizes":
        """Take the sizes from the costs of a variant's exits, which have a closed form."""
        macs, heads = float(costs.full), float(sum(costs.head))
        return cls(len(costs.blocks), costs.embed_dim, costs.summary_dim, costs.width, macs, heads, positions)

    def summaries_mb(self, images: int, itemsize: int = 4) -> float:
        """Return the size of the summaries of some images."""
        return images * (self.exits - 1) * self.summary_dim * itemsize / 1e6

    def embeddings_mb(self, images: int) -> float:
        """Return the size of the embeddings of some images at every exit, in float32."""
        return images * self.exits * self.embed_dim * 4 / 1e6

    def both_mb(self, images: int) -> float:
        """Return the size of the summaries and the embeddings of some images."""
        return self.summaries_mb(images) + self.embeddings_mb(images)

    @cached_property
    def weights_mb(self) -> float:
        """Size of the weights of both towers; the text tower is taken to be four fifths of the image tower."""
        return self.macs / self.positions * 1.8 * 4 / 1e6

    @cached_property
    def text_macs(self) -> float:
        """Multiply-accumulates of a text of 77 tokens, by a tower of 12 layers as wide as the embedding."""
        return 12 * 12 * 77 * self.embed_dim**2


LARGE = Sizes(24, 768, 5_120, 1_024, 81e9, 160e6, 257)
"""Sizes of a ViT-L/14 with summaries of 2 x 2 means, assumed where costs have no closed form (timm's towers)."""


class JobEstimates:
    """Memory and time of the jobs of a run, by the wildcards of their rules."""

    def __init__(self, config: dict[str, Any]):
        """Keep a complete configuration (`tgems.workflow_config.complete_config`)."""
        self.config = config
        self.features = config["features"]
        self.trained_on = config["training"]["dataset"]
        self._sizes: dict[tuple[str, str], Sizes] = {}

    def images(self, dataset: str, role: str) -> int:
        """Return about how many images a split holds: exact for a demo set, else known by name or assumed."""
        if self.config["datasets"][dataset]["source"] == "demo":
            return self.config["demo"][role]
        return given().get(dataset, {}).get("images", {}).get(role, UNKNOWN_IMAGES)

    def sizes(self, backbone: str, variant: str) -> Sizes:
        """Return the sizes of a backbone with the exit modules of a variant."""
        if (backbone, variant) not in self._sizes:
            costs = costs_of(self.config, backbone, variant)
            positions = positions_at_exits(model_config(self.config["backbones"][backbone]))
            if costs is None or positions is None:
                self._sizes[backbone, variant] = LARGE
            else:
                self._sizes[backbone, variant] = Sizes.of(costs, positions[0] * positions[1] + 1)
        return self._sizes[backbone, variant]

    def light(self, seconds: float = 0.0) -> Needs:
        """Estimate a job that imports no torch, such as generating or fetching a split."""
        return Needs.of(PROCESS_MB, seconds)

    def reporting(self) -> Needs:
        """Estimate a job that reads the tables of all evaluations."""
        parts = len(self.config["backbones"]) * len(self.config["variants"]) * len(self.config["datasets"])
        return Needs.of(PROCESS_MB + 40 * parts, 20 * parts)

    def model(self, backbone: str, seconds: float = 0.0) -> Needs:
        """Estimate a job that loads a backbone and encodes few images."""
        size = self.sizes(backbone, self._first_variant())
        return Needs.of(TORCH_MB + 2 * size.weights_mb + 64 * self._activations_mb(size), seconds)

    def encoding(self, backbone: str, dataset: str, roles: list[str], share: float = 1.0, texts: bool = True) -> Needs:
        """Estimate a job of the feature pass.

        Args:
            backbone: Name of the backbone.
            dataset: Name of the data set.
            roles: Splits that the job encodes.
            share: Share of the images that the job encodes.
            texts: Whether the job encodes the texts, as the one does that gathers the parts of a split.
        """
        size = max((self.sizes(backbone, v) for v in self.config["variants"]), key=lambda s: s.summaries_mb(1))
        images = sum(self.images(dataset, role) for role in roles)
        captioned = self.config["datasets"][dataset]["task"] == "zeroshot_retrieval"
        n_texts = images * CAPTIONS if texts and captioned else 0
        itemsize = 2 if self.features["dtype"] == "float16" else 4
        held = min(SHARD_IMAGES, max(self.images(dataset, role) for role in roles))
        cuda = self.features["device"] == "cuda"
        megabytes = TORCH_MB + 2 * size.weights_mb + self.features["batch_size"] * self._activations_mb(size)
        megabytes += 2 * size.summaries_mb(held, itemsize) + 2 * size.embeddings_mb(held)
        megabytes += self.features["workers"] * WORKER_MB + (CUDA_MB if cuda else 0)
        megabytes += n_texts * size.embed_dim * 8 / 1e6
        macs = share * images * size.macs + n_texts * size.text_macs
        encoded = macs / (GPU_MACS if cuda else CPU_MACS)
        return Needs.of(megabytes, share * images / (DECODED * max(self.features["workers"], 1)) + encoded)

    def demo_pretraining(self) -> Needs:
        """Estimate pretraining a demo backbone, which holds its images and takes up to two hours on one core."""
        return Needs.of(8_000, 7_200)

    def training(
        self, backbone: str, variant: str, passes: float, seeds: int, banks: int = 1, copies: int = GATE_COPIES
    ) -> Needs:
        """Estimate a job that trains heads or gates.

        Args:
            backbone: Name of the backbone.
            variant: Name of the variant.
            passes: Number of passes over the training images.
            seeds: Number of seeds that the job trains.
            banks: Number of text banks that every image is compared with per pass.
            copies: Number of tensors as large as the heads that the job holds, states of the optimizer included.
        """
        size, images = self.sizes(backbone, variant), self.images(self.trained_on, "train")
        megabytes = TORCH_MB + copies * size.heads * 4 / 1e6 + 3 * images * CAPTIONS * size.embed_dim * 4 / 1e6
        megabytes += STREAMING_MB if self._streamed(size, images) else 5 * size.both_mb(images)
        bank = banks * 2_048 * size.embed_dim * size.exits
        return Needs.of(megabytes, seeds * (passes + 2) * images * (3 * size.heads + bank) / TRAINING_MACS)

    def evaluation(self, backbone: str, variant: str, dataset: str, role: str) -> Needs:
        """Estimate fitting thresholds on a split, or evaluating it.

        The embeddings at every exit are held for the frozen projection and for each seed, and for each rate target
        whose heads are trained together with its gates.
        """
        size, images = self.sizes(backbone, variant), self.images(dataset, role)
        options = self.config["variants"][variant]
        splits = 1 + len(self.config["seeds"])
        if options["training"]["scheme"] == "joint":
            splits += 2 * len(self.config["seeds"]) * len(options["rate_targets"])
        megabytes = TORCH_MB + RANKING_MB + (splits + 2) * size.embeddings_mb(images)
        megabytes += STREAMING_MB if self._streamed(size, images) else 2 * size.summaries_mb(images)
        if self.config["datasets"][dataset]["task"] != "zeroshot_classification":
            megabytes += 3 * images * CAPTIONS * size.embed_dim * 8 / 1e6
            images *= 1 + CAPTIONS
        megabytes += POINT_MB * images * len(self.config["seeds"]) * len(options["rate_targets"])
        return Needs.of(megabytes, splits * images * size.exits / EVALUATED)

    def _first_variant(self) -> str:
        return next(iter(self.config["variants"]))

    def _activations_mb(self, size: Sizes) -> float:
        """Return the memory of the activations of one image."""
        return 12 * size.positions * size.width * 4 / 1e6

    def _streamed(self, size: Sizes, images: int) -> bool:
        """Return whether the summaries of a split are read from disk by rows."""
        return size.summaries_mb(images) * 1e6 > self.features["in_memory_gb"] * 2**30
