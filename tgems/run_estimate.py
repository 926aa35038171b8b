"""Estimate what a run takes, stage by stage: images, texts, multiply-accumulates, hours and disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tgems.backbones.references import weights_form
from tgems.config.reading import refuse_duplicate_keys
from tgems.data.dataset_entries import parse_part
from tgems.data.fetch import local_shards
from tgems.data.tar_index import index_shard
from tgems.data.text_files import read_shard_count
from tgems.data.webdataset import read_prompts
from tgems.errors import UserError
from tgems.provenance import RUN_AGAIN
from tgems.throughput import Throughput
from tgems.workflow_config import complete_config
from tgems.workload import Workload

EVALUATED = 8_000
"""Pairs of an image or caption and an exit that one core evaluates per second with all policies of the demo."""
DECODED_KB = 21_000
"""Kilobytes of JPEG that one core decodes per second, about 150 photographs."""
REPORTING = 8
"""Number of jobs that write tables and figures."""
LOADED_MB = 250
"""Megabytes of weights that a job reads, digests and copies into a model per second."""
DEMO_KB, PHOTOGRAPH_KB = 2, 140
"""Size of an image of the demo, and of a photograph whose size is not known."""


@dataclass
class Stage:
    """A stage of a run.

    Attributes:
        name: Name of the stage.
        images: Number of images that it reads, or None.
        texts: Number of texts that it reads, or None.
        macs: Multiply-accumulates.
        jobs: Time of each of its jobs in seconds on a single core.
        longest: Time of its longest job in seconds, on the cores that the job uses.
        disk_mb: Size in MB of the files that it writes and keeps.
    """

    name: str
    images: int | None = None
    texts: int | None = None
    macs: float = 0
    jobs: list[float] = field(default_factory=list)
    longest: float = 0
    disk_mb: float = 0

    def add(self, seconds: float, jobs: int = 1, threads: int = 1) -> None:
        """Add jobs of equal length, each of which uses a number of threads."""
        self.jobs += [seconds] * jobs
        self.longest = max(self.longest, seconds / threads)

    def seconds(self, cores: int) -> float:
        """Return how long the stage takes: its work divided by the cores, or its longest job if that takes longer."""
        return max(sum(self.jobs) / cores, self.longest) if self.jobs else 0


def read_configuration(files: Sequence[Path]) -> dict:
    """Read configuration files, merge them with later ones taking precedence, and fill in defaults.

    Raises:
        UserError: A file is missing or not YAML, or the configuration is not valid.
    """
    merged: dict = {}
    for file in files:
        try:
            refuse_duplicate_keys([file])
            found = yaml.safe_load(file.read_text())
        except FileNotFoundError:
            raise UserError(f"{file}: no such file; give a configuration such as configs/config.yaml") from None
        except IsADirectoryError:
            raise UserError(f"{file}: a folder, not a file; give a configuration such as configs/config.yaml") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not YAML ({' '.join(str(error).split())[:100]}); correct it") from None
        if not isinstance(found, dict):
            raise UserError(f"{file}: holds no keys; give a configuration such as configs/config.yaml")
        merged = _merged(merged, found)
    return complete_config(merged)


def _merged(first: dict, second: dict) -> dict:
    """Merge mappings as Snakemake merges configurations."""
    both = {
        k: _merged(first[k], v) for k, v in second.items() if isinstance(v, dict) and isinstance(first.get(k), dict)
    }
    return first | second | both


class CountedWorkload(Workload):
    """The work of a run, with splits of unknown size counted if they are on this machine, else left out and listed."""

    def __init__(self, config: dict):
        super().__init__(config)
        self._counted = {
            (name, role): self._count(name, role) for name in config["datasets"] for role in self.roles(name)
        }

    @property
    def unknown(self) -> list[str]:
        """Splits of which the number of images is not known."""
        return [f"{name}/{role}" for (name, role), n in self._counted.items() if n is None]

    def images(self, dataset: str, role: str) -> int:
        """Return the approximate number of images of a split; 0 if it is not known."""
        return self._counted.get((dataset, role)) or 0

    def texts(self, dataset: str, role: str) -> int:
        """Return the approximate number of texts that are encoded with a split; known class names are counted."""
        entry = self.config["datasets"][dataset]
        if self.known(dataset) or entry["source"] == "demo" or entry["task"] == "zeroshot_retrieval":
            return super().texts(dataset, role)
        try:
            prompts = read_prompts(self._place(entry)[0])
        except UserError:
            return 0
        return len(prompts.classnames) * len(prompts.templates)

    def _place(self, entry: dict) -> tuple[Path, str]:
        """Return the folder and the layout of a data set that is not generated."""
        scheme, _, rest = entry["source"].partition(":")
        return (Path(entry["root"]), "wds") if scheme == "hub" else (Path(rest), scheme)

    def _count(self, dataset: str, role: str) -> int | None:
        """Return the number of images of a split if it is known, or if its shards are on this machine."""
        known = self.known_images(dataset, role)
        entry = self.config["datasets"][dataset]
        if known is not None:
            return known
        root, layout = self._place(entry)
        part = parse_part(entry["splits"][role], f"datasets.{dataset}.splits.{role}")
        try:
            if layout == "tars":
                shards = local_shards(root, part, layout, dataset)
            else:  # only the shards of this split need to be on this machine
                folder = root / part.folder
                count = read_shard_count(folder / "nshards.txt", RUN_AGAIN)
                shards = part.pick([folder / f"{i}.tar" for i in range(count)], str(folder))
            return sum(len(index_shard(path)) for path in shards)
        except UserError:
            return None


def stages(work: CountedWorkload, speed: Throughput) -> list[Stage]:
    """Return the stages of a run with what each takes; measuring speed and pretraining backbones are not included.

    Args:
        work: The work of the run.
        speed: What one core does.
    """
    splits = [(name, role) for name in work.config["datasets"] for role in work.roles(name)]
    download, images, texts = _download(work, splits), Stage("encode images", 0), Stage("encode texts", None, 0)
    heads, gates, evaluate = Stage("train heads"), Stage("train gates"), Stage("evaluate")
    threads = 1 + work.features["workers"]
    for backbone in work.config["backbones"]:
        size = work.largest(backbone)
        for name, role in splits:
            n, m, parts = work.images(name, role), work.texts(name, role), work.config["datasets"][name]["jobs"][role]
            seconds = n * size.macs / speed.encoding + n * _kilobytes(work, name) / DECODED_KB
            images.add(seconds / parts + size.weights_mb / LOADED_MB, parts, threads)
            texts.add(m * size.text_macs / speed.encoding, 1, threads)
            images.images, texts.texts = (images.images or 0) + n, (texts.texts or 0) + m
            images.macs, texts.macs = images.macs + n * size.macs, texts.macs + m * size.text_macs
            images.disk_mb += size.stored_mb(n, work.itemsize)
            texts.disk_mb += m * size.embed_dim * 4 / 1e6
        for variant in work.config["variants"]:
            _train(work, backbone, variant, speed, heads, gates)
            for name, role in splits:
                if role != "train":
                    evaluate.add(work.evaluated_pairs(backbone, variant, name, role) / EVALUATED)
    start = Stage("start jobs")
    counted = (images, texts, heads, gates, evaluate)
    counting = len(work.config["backbones"]) * len(work.config["variants"])
    encoded = sum(len(stage.jobs) for stage in counted) - len(texts.jobs)
    start.add(speed.start, encoded + len(splits) + counting + REPORTING)
    return [download, *counted, start]


def table(found: Sequence[Stage], cores: int) -> list[tuple[str, ...]]:
    """Format the stages as rows of text, followed by their totals, for the table that `tgems estimate` prints."""
    rows = [
        (
            stage.name,
            "" if stage.images is None else f"{stage.images:,}",
            "" if stage.texts is None else f"{stage.texts:,}",
            *_numbers(stage.macs, sum(stage.jobs), stage.seconds(cores), stage.disk_mb),
        )
        for stage in found
    ]
    sums = [(s.macs, sum(s.jobs), s.seconds(cores), s.disk_mb) for s in found]
    return [*rows, ("total", "", "", *_numbers(*(sum(column) for column in zip(*sums, strict=True))))]


def _numbers(macs: float, seconds: float, elapsed: float, disk_mb: float) -> tuple[str, ...]:
    """Format the numbers of a row; zeros are left blank."""
    shown = (f"{macs / 1e9:,.0f}", f"{seconds / 3600:.3g}", f"{elapsed / 3600:.3g}", f"{disk_mb / 1e3:.3g}")
    return tuple(text if number else "" for text, number in zip(shown, (macs, seconds, elapsed, disk_mb), strict=True))


def _train(work: Workload, backbone: str, variant: str, speed: Throughput, heads: Stage, gates: Stage) -> None:
    """Add the training jobs of one backbone and variant to the stages of heads and gates."""
    size, costs = work.sizes(backbone, variant), work.config["variants"][variant]
    folds = 3 if costs["heads"]["fold_passes"] else 1
    for kind, job in work.training_jobs(variant).items():
        stage = heads if kind in ("heads", "joint") else gates
        macs = work.training_macs(backbone, variant, kind)
        stage.macs += job.jobs * macs
        stage.add(macs / speed.training, job.jobs)
        if kind in ("heads", "joint"):
            stage.disk_mb += job.jobs * size.heads * 4 / 1e6 * (folds if kind == "heads" else 1)
    gates.images = heads.images = work.images(work.trained_on, "train")


def _download(work: Workload, splits: Iterable[tuple[str, str]]) -> Stage:
    """Return the stage of downloads: images of data sets on the hub, and weights of backbones."""
    remote = [(n, r) for n, r in splits if work.config["datasets"][n]["source"].startswith("hub:")]
    stage = Stage("download", sum(work.images(name, role) for name, role in remote))
    stage.disk_mb = sum(work.images(name, role) * _kilobytes(work, name) / 1e3 for name, role in remote)
    for backbone, entry in work.config["backbones"].items():
        if weights_form(entry["pretrained"]) in ("tag", "hf-hub"):
            stage.disk_mb += work.largest(backbone).weights_mb
    return stage


def _kilobytes(work: Workload, dataset: str) -> float:
    """Return the approximate size of an image in its shard, in kB."""
    demo = work.config["datasets"][dataset]["source"] == "demo"
    return DEMO_KB if demo else work.known(dataset).get("kilobytes", PHOTOGRAPH_KB)
