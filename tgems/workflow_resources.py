"""Estimate the memory and the time of the workflow's jobs, which executors such as that for Slurm request.

The estimates follow the sizes of the tensors that a job holds and the multiply-accumulates that it spends, and are
meant to be high rather than low: a job that asks for too little is killed. They do not affect any result. Imports
neither torch nor open_clip, for dry runs.
"""

from dataclasses import dataclass
from math import ceil

from tgems.workload import CAPTIONS, Sizes, Workload

SHARD_IMAGES = 10_000
"""Assumed number of images of a shard, whose features are held until it is complete."""

PROCESS_MB, TORCH_MB, WORKER_MB, CUDA_MB = 1_000, 2_000, 600, 3_000
"""Memory in MB of Snakemake and pandas; of torch and its libraries; of a process that decodes; of a CUDA context."""
STREAMING_MB, RANKING_MB = 2_000, 1_000
"""Memory in MB of the rows that are read from disk at a time, and of ranking texts for images and images for texts."""
POINT_MB = 0.004
"""Memory per image or caption in evaluation, for each seed and rate target, of the outcomes of all policies."""
HEAD_COPIES, GATE_COPIES = 30, 8
"""Tensors as large as all heads in training heads and gates: modules, gradients, states of the optimizer, folds."""
CPU_MACS, TRAINING_MACS, GPU_MACS = 30e9, 40e9, 2e12
"""Multiply-accumulates per second: of encoding and of training on one core, and of encoding on a GPU."""
DECODED = 100
"""Images per second that one core decodes."""
EVALUATED = 4_000
"""Pairs of an image and an exit that one core evaluates per second, with all policies and resampling."""
LEAST_MINUTES, SAFETY = 15, 3
"""Minutes that are added to every job, and the factor by which a job asks for more than the estimate."""


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


class JobEstimates(Workload):
    """Memory and time of the jobs of a run, by the wildcards of their rules."""

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
        size = self.largest(backbone)
        images = sum(self.images(dataset, role) for role in roles)
        n_texts = sum(self.texts(dataset, role) for role in roles) if texts else 0
        held = min(SHARD_IMAGES, max(self.images(dataset, role) for role in roles))
        cuda = self.features["device"] == "cuda"
        megabytes = TORCH_MB + 2 * size.weights_mb + self.features["batch_size"] * self._activations_mb(size)
        megabytes += 2 * size.summaries_mb(held, self.itemsize) + 2 * size.embeddings_mb(held)
        megabytes += self.features["workers"] * WORKER_MB + (CUDA_MB if cuda else 0)
        megabytes += n_texts * size.embed_dim * 8 / 1e6
        macs = share * images * size.macs + n_texts * size.text_macs
        encoded = macs / (GPU_MACS if cuda else CPU_MACS)
        return Needs.of(megabytes, share * images / (DECODED * max(self.features["workers"], 1)) + encoded)

    def demo_pretraining(self) -> Needs:
        """Estimate pretraining a demo backbone, which holds its images and takes up to two hours on one core."""
        return Needs.of(8_000, 7_200)

    def training(self, backbone: str, variant: str, kind: str) -> Needs:
        """Estimate a job that trains heads or gates; `kind` is a key of `training_jobs`."""
        size, images = self.sizes(backbone, variant), self.images(self.trained_on, "train")
        copies = HEAD_COPIES if kind in ("heads", "joint") else GATE_COPIES
        megabytes = TORCH_MB + copies * size.heads * 4 / 1e6 + 3 * images * CAPTIONS * size.embed_dim * 4 / 1e6
        megabytes += STREAMING_MB if self._streamed(size, images) else 5 * size.both_mb(images)
        return Needs.of(megabytes, self.most_training_macs(backbone, variant, kind) / TRAINING_MACS)

    def evaluation(self, backbone: str, variant: str, dataset: str, role: str) -> Needs:
        """Estimate fitting thresholds on a split, or evaluating it."""
        size, images = self.sizes(backbone, variant), self.images(dataset, role)
        pairs = self.evaluated_pairs(backbone, variant, dataset, role)
        megabytes = TORCH_MB + RANKING_MB + (self.held_splits(variant) + 2) * size.embeddings_mb(images)
        megabytes += STREAMING_MB if self._streamed(size, images) else 2 * size.summaries_mb(images)
        if self.config["datasets"][dataset]["task"] != "zeroshot_classification":
            megabytes += 3 * images * CAPTIONS * size.embed_dim * 8 / 1e6
            images *= 1 + CAPTIONS
        rate_targets = self.config["variants"][variant]["rate_targets"]
        megabytes += POINT_MB * images * len(self.config["seeds"]) * len(rate_targets)
        return Needs.of(megabytes, pairs / EVALUATED)

    def _first_variant(self) -> str:
        return next(iter(self.config["variants"]))

    def _activations_mb(self, size: Sizes) -> float:
        """Return the memory of the activations of one image."""
        return 12 * size.positions * size.width * 4 / 1e6

    def _streamed(self, size: Sizes, images: int) -> bool:
        """Return whether the summaries of a split are read from disk by rows."""
        return size.summaries_mb(images) * 1e6 > self.features["in_memory_gb"] * 2**30
