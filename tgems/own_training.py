"""Train a T-GEM on one's own images: write a configuration, run the workflow on it, and export the result.

Everything is kept in a work folder, so that a run that was interrupted goes on where it stopped. The workflow is a
process of its own (Snakemake), and its output goes to a log file there.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from subprocess import PIPE, STDOUT

import yaml
from filelock import FileLock, Timeout

from tgems.backbones.references import weights_form
from tgems.backbones.source import with_activation
from tgems.checkout import CHECKOUT
from tgems.config.training import HeadOptions, ImageGateOptions
from tgems.data.own_images import own_dataset
from tgems.data.tar_index import index_shard
from tgems.data.webdataset import shard_paths
from tgems.errors import UserError
from tgems.outputs import write_text
from tgems.own_results import Reached, images_left_out, reached
from tgems.runtime.export import from_results
from tgems.runtime.folder import check_free
from tgems.runtime.saved_config import is_saved
from tgems.workflow_config import complete_config

DATASET, LOG = "photos", "train.log"
HEAD_STEPS, GATE_STEPS, FORESIGHT_STEPS = 4_500, 100, 190
"""Steps of training heads, gates, and what gates foresee, after which the demo reached its plateau (docs/method.md)."""
PASSES, LEAST_STEPS = (8, 48), 200
"""Least and most passes over the training images, and the steps that heads take even if that needs more passes."""
UNKNOWN_IMAGES = 10_000
"""Number of training images that is assumed where they are not counted before they are fetched."""
POLICIES = ("full", "fixed", "saturation", "tgem")
TOTAL = re.compile(r"^total +(\d+)$")
TARGET = 1
"""Number of jobs in Snakemake's total that do no work: the one that asks for all results."""
JOB = re.compile(r"^Job \d+: (.*)$")
ERROR = re.compile(r"^(?:tgems[\w.]*: )?error: (.*)$")
"""Lines of Snakemake and of jobs: number of jobs, start of a job, why a job failed."""


def train(
    model: str | None,
    pretrained: str,
    images: str,
    rate: float,
    out: Path,
    work: Path,
    captions: Path | None = None,
    cores: int | None = None,
    device: str = "cpu",
    passes: int | None = None,
    skip_bad: bool = False,
    show: Callable[[str], None] = print,
) -> tuple[Reached, list[tuple[str, str]]]:
    """Train a T-GEM on one's own images and save it.

    Args:
        model: open_clip architecture; may be None if `pretrained` is a `local-dir:FOLDER`.
        pretrained: Weights (docs/adding-a-backbone.md).
        images: See `tgems.data.own_images.own_dataset`.
        rate: Mean rate that the T-GEM must not exceed on validation images.
        out: Folder of the T-GEM to write.
        work: Folder of the run: packed images, configuration, features, modules, tables and figures.
        captions: See `own_dataset`.
        cores: Number of cores; None for all.
        device: Device that encodes images and texts, `cpu` or `cuda`.
        passes: Passes over the training images; None to choose them by the number of images.
        skip_bad: Whether to leave out images that cannot be read, instead of stopping.
        show: Function that prints a line of progress.

    Returns:
        What was reached on held-out images, and name and reason of each image that was left out.

    Raises:
        UserError: The images, the backbone or an option cannot be used, or a job of the workflow failed.
    """
    out, work, cores = Path(out), Path(work), cores or os.cpu_count() or 1
    _check_places(images, out, work)
    with _locked(work):
        dataset = own_dataset(images, work / DATASET, captions, cores, skip_bad=skip_bad, note=show)
        name, config = configuration(model, pretrained, dataset, rate, cores, device, passes, _packed_images(dataset))
        complete_config(config)
        header = "# Written by `tgems train`; run again with: snakemake --cores all --configfile config.yaml\n"
        write_text(work / "config.yaml", header + yaml.safe_dump(config, sort_keys=False))
        _run_workflow(work, cores, device, show)
        from_results(work / "results", name, "tgem", rate).save_pretrained(out)
        return reached(work / "results/tables", dataset["task"], rate), images_left_out(work, name, DATASET, dataset)


def configuration(
    model: str | None,
    pretrained: str,
    dataset: dict,
    rate: float,
    cores: int = 1,
    device: str = "cpu",
    passes: int | None = None,
    n: int | None = None,
) -> tuple[str, dict]:
    """Return the name of the backbone and the configuration of the run.

    Args:
        model: See `train`.
        pretrained: See `train`; a relative folder or file is taken from the current folder.
        dataset: Entry of the data set.
        rate: Rate target.
        cores: Number of jobs that share the training images.
        device: See `train`.
        passes: See `train`.
        n: Number of training images; None if it is not known yet.
    """
    n = n or UNKNOWN_IMAGES
    plateau, least = (ceil(steps / max(n / HeadOptions().batch_size, 1)) for steps in (HEAD_STEPS, LEAST_STEPS))
    chosen = passes or max(min(max(plateau, PASSES[0]), PASSES[1]), least)
    gate_steps = max(n / ImageGateOptions().batch_size, 1)
    gates = {"passes": ceil(GATE_STEPS / gate_steps), "foresight_passes": ceil(FORESIGHT_STEPS / gate_steps)}
    backbone = {"pretrained": _absolute(pretrained)} | ({"model": with_activation(model, pretrained)} if model else {})
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", model or Path(pretrained.partition(":")[2]).name) or "backbone"
    return name, {
        "results": "results",
        "seeds": [0],
        "rate_targets": [rate],
        "backbones": {name: backbone},
        "datasets": {DATASET: dataset | {"jobs": {"train": cores}}},
        "training": {"dataset": DATASET},
        "policies": list(POLICIES),
        "calibration": ["in_domain"],
        "score_normalisation": ["none"],
        "features": {"dtype": "float16", "device": device, "batch_size": 64},
        "heads": {"hidden": 512, "start": "ridge", "passes": chosen, "fold_passes": max(1, chosen // 5)},
        "image_gates": gates,
    }


def _check_places(images: str, out: Path, work: Path) -> None:
    """Refuse folders that would mix with the images, or that hold something else, before anything is done.

    Raises:
        UserError: The T-GEM's folder or the work folder is among the images, holds something else, or holds a T-GEM of
            another work folder.
    """
    for option, place in (("--out", out), ("--work", work)):
        if place.name in ("", ".."):
            raise UserError(f"{option} {str(place)!r}: name a new folder")
        if os.path.isdir(images) and place.resolve().is_relative_to(Path(images).resolve()):
            raise UserError(
                f"{option} {place}: is inside {images}, so that figures would be taken for images later; choose a "
                "folder outside"
            )
    if work.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--work {work}: is inside --out {out}, which holds nothing but a T-GEM; choose another folder")
    check_free(out)
    if is_saved(out) and not (work / "config.yaml").is_file():
        raise UserError(f"{out}: holds a T-GEM that was not trained in {work}; choose another --out, or delete it")


def _absolute(pretrained: str) -> str:
    """Make a folder or file of weights absolute, since the workflow runs in the work folder."""
    scheme, _, rest = pretrained.partition(":")
    if weights_form(pretrained) == "local-dir":
        folder = Path(rest)
        return pretrained if not folder.exists() else f"{scheme}:{folder.resolve()}"
    return str(Path(pretrained).resolve()) if weights_form(pretrained) == "file" else pretrained


def _packed_images(dataset: dict) -> int | None:
    """Return the number of training images of a data set in numbered shards on this machine; None for others."""
    scheme, _, folder = dataset["source"].partition(":")
    if scheme != "wds":
        return None
    return sum(len(index_shard(shard)) for shard in shard_paths(Path(folder, "train")))


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock the work folder; it is deleted if nothing was put into it.

    Raises:
        UserError: Another `tgems train` uses it.
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / ".train.lock", timeout=0) as lock:
            try:
                yield
            finally:
                if [path.name for path in work.iterdir()] == [Path(lock.lock_file).name]:
                    shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise UserError(f"{work}: another `tgems train` uses this folder; wait for it, or set --work") from None


def _run_workflow(work: Path, cores: int, device: str, show: Callable[[str], None]) -> None:
    """Run Snakemake in the work folder, and show a line for each job that starts.

    Snakemake's own lock is not used: a run that was killed leaves it behind, and `_locked` does the same.

    Raises:
        UserError: A job failed; the message is that of the job.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", CHECKOUT / "Snakefile", "--directory", work]
    command += ["--configfile", work / "config.yaml", "--cores", cores, "--nolock", "--rerun-incomplete"]
    command += ["--resources", "gpu=1"] if device == "cuda" else []
    errors, started, total = [], 0, 0
    with (
        open(work / LOG, "w") as log,
        subprocess.Popen([*map(str, command)], stdout=PIPE, stderr=STDOUT, text=True, errors="replace") as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if found := TOTAL.match(line):
                    total = int(found[1]) - TARGET
                elif found := JOB.match(line):
                    started += 1
                    show(f"[{started}/{total}] {found[1].strip()}")
                elif found := ERROR.match(line):
                    errors.append(found[1].strip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise UserError(f"{errors[-1] if errors else 'the workflow failed'}; all of its output is in {work / LOG}")
