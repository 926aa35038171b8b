"""The amount of work of a run: numbers of images and texts, multiply-accumulates, and sizes of stored features.

Everything follows from the configuration by closed forms. Imports neither torch nor open_clip, for dry runs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tgems.architectures.catalog import positions_at_exits
from tgems.backbones.references import model_config
from tgems.costs.closed_form import encoder_cost, text_macs
from tgems.costs.exit_costs import ExitCosts
from tgems.data.dataset_entries import given
from tgems.workflow_config import costs_of, trained_gates

UNKNOWN_IMAGES = 50_000
"""Assumed number of images of a split whose size is known only once it is fetched: that of ImageNet's test split."""
CAPTIONS = 5
"""Assumed number of captions of an image."""
DEMO_CAPTIONS = {"train": 3, "validation": 1, "test": 1}
"""Number of captions of an image of the demo."""
BANK = 2_048
"""Number of texts of a bank that an image is compared with in training."""


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
        positions: Number of tokens of an image, before any are merged.
        text_macs: Multiply-accumulates of the text tower for one text.
        token_macs: Multiply-accumulates of the full encoder for one token, if none are merged.
    """

    exits: int
    embed_dim: int
    summary_dim: int
    width: int
    macs: float
    heads: float
    positions: int
    text_macs: float
    token_macs: float

    @classmethod
    def of(cls, costs: ExitCosts, unmerged: float, positions: int, texts: float | None) -> "Sizes":
        """Take the sizes from the costs of a variant's exits, which have a closed form.

        Args:
            costs: Costs of the exits.
            unmerged: Multiply-accumulates of the full encoder if no tokens are merged.
            positions: Number of tokens of an image.
            texts: Multiply-accumulates of the text tower; None if there is no closed form, for 12 layers as wide as
                the embedding.
        """
        macs, heads, dim = float(costs.full), float(sum(costs.head)), costs.embed_dim
        texts = 12 * 12 * 77 * dim**2 if texts is None else texts
        sizes = (len(costs.blocks), dim, costs.summary_dim, costs.width, macs, heads, positions, texts)
        return cls(*sizes, unmerged / positions)

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
        return self.token_macs * 1.8 * 4 / 1e6

    def stored_mb(self, images: int, itemsize: int) -> float:
        """Return the size of the features of some images: summaries, frozen projections, and float32 embeddings."""
        frozen = images * (self.exits - 1) * self.embed_dim * itemsize / 1e6
        return self.summaries_mb(images, itemsize) + frozen + images * self.embed_dim * 4 / 1e6


LARGE = Sizes(24, 768, 5_120, 1_024, 81e9, 160e6, 257, 6.65e9, 81e9 / 257)
"""Sizes of a ViT-L/14 with summaries of 2 x 2 means, assumed where costs have no closed form (timm's towers)."""


@dataclass(frozen=True)
class TrainingJob:
    """A job that trains modules of a backbone and a variant.

    Attributes:
        passes: Number of passes over the training images.
        seeds: Number of seeds that the job trains.
        banks: Number of text banks that every image is compared with per pass.
        jobs: Number of such jobs.
    """

    passes: int
    seeds: int
    banks: int = 1
    jobs: int = 1


def training_jobs(options: dict, n_seeds: int, gates: list[str]) -> dict[str, TrainingJob]:
    """Return the jobs that train the modules of one backbone and variant, by what they train.

    Args:
        options: All options of the variant.
        n_seeds: Number of seeds of the run.
        gates: Kinds of gates that the policies need.

    Returns:
        Jobs by `heads`, `lookahead`, `joint` or a kind of gates (`tgems.costs.exit_costs.GATES`).
    """
    heads, image, bank = options["heads"], options["image_gates"], options["bank_gates"]
    chosen, rates = options["confidence_gates"]["passes"], len(options["rate_targets"])
    jobs = {"heads": TrainingJob(heads["passes"] + heads["fold_passes"], 1, banks=0, jobs=n_seeds)}
    for kind in ("confidence", "router"):
        jobs[kind] = TrainingJob(chosen, n_seeds)
    jobs["variance"] = TrainingJob(bank["passes"], n_seeds, bank["banks_per_image"])
    guided = [kind for kind in ("image", "bank") if kind in gates]
    if options["training"]["scheme"] == "joint":
        jobs["joint"] = TrainingJob(options["joint"]["passes"], 1, jobs=len(guided) * rates * n_seeds)
        return {kind: job for kind, job in jobs.items() if kind in ("heads", "joint", *gates)}
    jobs["lookahead"] = TrainingJob(image["foresight_passes"], n_seeds)
    jobs["image"] = TrainingJob(image["passes"], n_seeds, jobs=rates)
    jobs["bank"] = TrainingJob(bank["passes"], 1, bank["banks_per_image"], jobs=n_seeds)
    wanted = {"heads", *gates} | ({"lookahead"} if "image" in gates else set())
    return {kind: job for kind, job in jobs.items() if kind in wanted}


class Workload:
    """The work of a run, by backbone, variant and data set."""

    def __init__(self, config: dict[str, Any]):
        """Keep a complete configuration (`tgems.workflow_config.complete_config`)."""
        self.config = config
        self.features = config["features"]
        self.trained_on = config["training"]["dataset"]
        self.gates = trained_gates(config["policies"])
        self._sizes: dict[tuple[str, str], Sizes] = {}

    def roles(self, dataset: str) -> list[str]:
        """Return the splits of a data set that the run encodes."""
        splits = self.config["datasets"][dataset]["splits"]
        return [r for r, split in splits.items() if split != "none" and (r != "train" or dataset == self.trained_on)]

    def known(self, dataset: str) -> dict:
        """Return what given.yaml states about a known data set; an empty mapping for other data sets."""
        about = given().get(dataset, {})
        return about if about.get("source") == self.config["datasets"][dataset]["source"] else {}

    def known_images(self, dataset: str, role: str) -> int | None:
        """Return the number of images of a split: exact for a demo set, approximate for a known data set, else None."""
        if self.config["datasets"][dataset]["source"] == "demo":
            return self.config["demo"][role]
        return self.known(dataset).get("images", {}).get(role)

    def images(self, dataset: str, role: str) -> int:
        """Return the number of images of a split: exact for a demo set, else approximate or assumed."""
        known = self.known_images(dataset, role)
        return UNKNOWN_IMAGES if known is None else known

    def texts(self, dataset: str, role: str) -> int:
        """Return the approximate number of texts of a split: captions, or prompts of a known data set."""
        entry = self.config["datasets"][dataset]
        if entry["task"] == "zeroshot_classification":
            return self.known(dataset).get("prompts", 0)
        captions = DEMO_CAPTIONS[role] if entry["source"] == "demo" else CAPTIONS
        return captions * self.images(dataset, role)

    def sizes(self, backbone: str, variant: str) -> Sizes:
        """Return the sizes of a backbone with the exit modules of a variant."""
        if (backbone, variant) not in self._sizes:
            costs, model = costs_of(self.config, backbone, variant), model_config(self.config["backbones"][backbone])
            positions, plain = positions_at_exits(model), encoder_cost(model)
            if costs is None or positions is None or plain is None:
                self._sizes[backbone, variant] = LARGE
            else:
                tokens = positions[0] * positions[1] + 1
                self._sizes[backbone, variant] = Sizes.of(costs, plain.full, tokens, text_macs(model))
        return self._sizes[backbone, variant]

    def largest(self, backbone: str) -> Sizes:
        """Return the sizes of a backbone with the variant that has the largest summaries."""
        return max((self.sizes(backbone, v) for v in self.config["variants"]), key=lambda s: s.summaries_mb(1))

    @property
    def itemsize(self) -> int:
        """Number of bytes of a stored number of a summary."""
        return 2 if self.features["dtype"] == "float16" else 4

    def training_jobs(self, variant: str) -> dict[str, TrainingJob]:
        """Return the jobs that train the modules of a backbone and a variant, by what they train."""
        return training_jobs(self.config["variants"][variant], len(self.config["seeds"]), self.gates)

    def most_training_macs(self, backbone: str, variant: str, kind: str) -> float:
        """Return an upper bound of the multiply-accumulates of a training job, taking gates to be as large as heads."""
        size, job = self.sizes(backbone, variant), self.training_jobs(variant)[kind]
        bank = job.banks * BANK * size.embed_dim * size.exits
        images = self.images(self.trained_on, "train")
        return job.seeds * (job.passes + 2) * images * (3 * size.heads + bank)

    def training_macs(self, backbone: str, variant: str, kind: str) -> float:
        """Return the approximate number of multiply-accumulates of a training job.

        A step takes three times those of a forward pass. The statistics of a bank take the time of its products at half
        of its largest size; the ranks that gates learn to predict are computed once.
        """
        size, job = self.sizes(backbone, variant), self.training_jobs(variant)[kind]
        costs = costs_of(self.config, backbone, variant)
        if costs is None or kind in ("heads", "joint"):
            return self.most_training_macs(backbone, variant, kind)
        gate = sum(costs.gates["image" if kind == "lookahead" else kind])
        products = {"lookahead": 1, "router": 1, "bank": job.banks * job.passes / 2}
        products["variance"] = products["bank"]
        bank = products.get(kind, 0) * BANK * size.embed_dim * size.exits
        return job.seeds * self.images(self.trained_on, "train") * (3 * job.passes * gate + bank)

    def held_splits(self, variant: str) -> int:
        """Return how many sets of embeddings at all exits an evaluation keeps in memory per image.

        They are the frozen projection's and those of each seed, and of each rate target whose heads are trained
        together with its gates.
        """
        options, seeds = self.config["variants"][variant], len(self.config["seeds"])
        joint = 2 * seeds * len(options["rate_targets"]) if options["training"]["scheme"] == "joint" else 0
        return 1 + seeds + joint

    def evaluated_pairs(self, backbone: str, variant: str, dataset: str, role: str) -> float:
        """Return the pairs of an image or caption and an exit that are evaluated on a split."""
        captioned = self.config["datasets"][dataset]["task"] == "zeroshot_retrieval"
        rows = self.images(dataset, role) + (self.texts(dataset, role) if captioned else 0)
        return self.held_splits(variant) * rows * self.sizes(backbone, variant).exits
