"""clip_benchmark evaluates the model object and the command unchanged, and gives the harness's numbers."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import pandas as pd
import pytest
import torch
from conftest import ROOT
from torch.utils.data import DataLoader

from tgems.data.webdataset import read_prompts
from tgems.errors import UserError
from tgems.runtime import clip_benchmark
from tgems.runtime.clip_benchmark import adapt_metrics, load_tgems


def point(results, **where):
    """One number of the run's table."""
    points = pd.read_csv(results / "tables/tradeoff.csv", dtype={"seed": "string"})
    points = points[points["twin_of"].isna() & points["seed"].eq("0") & points["policy"].eq("tgem")]
    for key, value in where.items():
        points = points[points[key].eq(value)]
    assert len(points) == 1
    return points["value"].item()


class Pairs(list):
    """Images and targets, with the names of classes that clip_benchmark asks a data set for."""

    classes = tuple(range(10))


def in_batches(known, targets):
    """Loader of (images, targets), as clip_benchmark's collate function makes them."""
    pairs = Pairs(zip(known.images, targets, strict=True))
    plain = isinstance(targets[0], int)
    return DataLoader(
        pairs,
        batch_size=32,
        collate_fn=lambda batch: (
            torch.stack([image for image, _ in batch]),
            torch.tensor([t for _, t in batch]) if plain else [t for _, t in batch],
        ),
    )


def test_its_functions_give_the_harness_s_numbers(make, known, results, demo_data):
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    adapt_metrics()
    model = make("tgem", calibration=known.dataset)
    where = {"dataset": known.dataset, "calibration": "in_domain"}
    if known.dataset == "digits":
        prompts = read_prompts(demo_data / "digits")
        loader = in_batches(known, [s.label for s in known.samples])
        words = list(prompts.classnames), list(prompts.templates)
        got = zeroshot_classification.evaluate(model, loader, model.tokenizer, *words, device="cpu", amp=False)
        names = ("acc1", "acc5", "mean_per_class_recall")
    else:
        loader = in_batches(known, [list(s.captions) for s in known.samples])
        got = zeroshot_retrieval.evaluate(model, loader, model.tokenizer, "cpu", amp=False, recall_k_list=[1, 5])
        names = [f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5)]
    for name in names:
        assert got[name] == pytest.approx(point(results, metric=name, **where), abs=1e-5), name


def test_the_command_gives_the_harness_s_accuracy(saved, results, demo_data, tmp_path):
    words = ["eval", "--model", str(saved), "--dataset", "wds/digits", "--dataset_root", str(demo_data / "digits")]
    words += ["--pretrained", "default", "digits", "--no_amp", "--num_workers", "0", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tgems.cli", "clip-benchmark", *words]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for calibration, label in (("default", "transfer"), ("digits", "in_domain")):
        got = json.loads((tmp_path / f"digits_{calibration}_en_zeroshot_classification.json").read_text())
        assert got["model"] == str(saved) and got["task"] == "zeroshot_classification"
        expected = point(results, dataset="digits", calibration=label, metric="acc1")
        assert got["metrics"]["acc1"] == pytest.approx(expected, abs=1e-5)


def test_a_policy_that_looks_at_texts_is_refused(make, tmp_path):
    make("margin").save_pretrained(tmp_path / "margin")
    with pytest.raises(UserError, match="policy 'margin' looks at the texts before an image is encoded"):
        load_tgems(str(tmp_path / "margin"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--dataset", "wds/digits", "--dataset_root", "pipe:touch ran;"],
            "would run this as a command; name a folder",
        ),
        (["--dataset", "nonsense"], "clip_benchmark: Unsupported dataset: nonsense"),
        (["--dataset", "wds/digits", "--dataset_root", "gone"], "clip_benchmark: gone/test/nshards.txt: No such file"),
        (
            ["--dataset", "wds/digits", "--dataset_root", "digits", "--num_workers", "0"],
            "digits/test/0.tar: png of sample 'a' cannot be decoded (cannot identify image file",
        ),
    ],
)
def test_what_it_cannot_use_is_named_on_one_line(saved, demo_data, tmp_path, monkeypatch, words, message):
    shutil.copytree(demo_data / "digits", tmp_path / "digits")
    with tarfile.open(tmp_path / "digits/test/0.tar", "w") as tar:
        for name, data in (("a.png", b"garbage"), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(UserError) as error:
        clip_benchmark.run(["eval", "--model", str(saved), *words])
    assert message in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_a_bug_below_it_stays_one(saved, monkeypatch):
    def broken(*args, **options):
        raise ValueError("wrong shape")

    monkeypatch.setattr(clip_benchmark, "load_tgems", broken)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(ValueError, match="wrong shape"):
        clip_benchmark.run(["eval", "--model", str(saved), "--dataset", "cifar10"])
