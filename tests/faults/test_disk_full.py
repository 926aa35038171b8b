"""A disk that is full or read-only: one line says so, nothing is left that looks whole, and the next call succeeds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from data.hub_server import use
from faults.small_disk import mounted
from PIL import Image
from running import SMOKE, make_project, snakemake
from runtime.test_cli import tgems

from tgems.data.fetch import fetch_split
from tgems.data.webdataset import Prompts, Sample, SplitFiles, write_prompts, write_split
from tgems.errors import UserError
from tgems.features.cache import load_features
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding
from tgems.provenance import read_json
from tgems.reporting.style import save
from tgems.reporting.tables import write_table
from tgems.runtime.model import EarlyExitCLIP

FULL = r"cannot be written \(No space left on device\); free space there, or choose a place that you may write to"
READ_ONLY = r"cannot be written \(Read-only file system\); free space there, or choose a place that you may write to"
RECEIPT = "receipt.json"


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MiB."""
    with mounted(tmp_path / "disk", "4m") as small:
        yield small


def without_parts(files: set[str]) -> set[str]:
    """Files but for folders of parts, which the next call continues."""
    return {name for name in files if ".parts" not in name}


@pytest.mark.parametrize("room", [0, 8192])
def test_encode_ends_with_one_line_and_leaves_nothing(saved, pictures, disk, room):
    out = disk.folder / "i.parquet"
    words = ("encode", pictures, "-m", saved, "-o", out)
    disk.fill(leave=room)
    line = tgems(*words, code=1).strip()
    assert re.fullmatch(rf"error: {out}.*: {FULL}", line) and "\n" not in line
    assert not disk.files(), "nothing was encoded, so that there is nothing to continue from"
    disk.free()
    with disk.read_only():
        assert re.fullmatch(rf"error: {out}: {READ_ONLY}", tgems(*words, code=1).strip())
    tgems(*words)
    assert disk.files() == {"i.parquet"} and len(pd.read_parquet(out)) == 12


def test_an_index_survives_an_encode_over_it(saved, pictures, disk):
    out = disk.folder / "i.parquet"
    tgems("encode", pictures / "01.png", "-m", saved, "-o", out)
    before = out.read_bytes()
    disk.fill()
    assert re.search(FULL, tgems("encode", pictures, "-m", saved, "-o", out, code=1))
    assert out.read_bytes() == before and disk.files() == {"i.parquet"}
    disk.free()
    tgems("encode", pictures, "-m", saved, "-o", out)
    assert len(pd.read_parquet(out)) == 12


@pytest.mark.parametrize("room", [0, 12_288])
def test_export_over_a_t_gem(results, demo_backbone, saved, disk, monkeypatch, room):
    monkeypatch.setattr("tgems.runtime.export.load_backbone", lambda entry: demo_backbone)
    folder = shutil.copytree(saved, disk.folder / "g")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    words = ("export", "demo", folder, "--results", results, "--policy", "fixed", "--exit-block", 3)
    disk.fill(leave=room)
    assert re.fullmatch(rf"error: {folder}/[\w.]+: {FULL}", tgems(*words, code=1).strip())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    disk.free()
    with disk.read_only():
        assert re.fullmatch(rf"error: {folder}/[\w.]+: {READ_ONLY}", tgems(*words, code=1).strip())
    tgems(*words)
    assert EarlyExitCLIP.from_pretrained(folder, backbone=demo_backbone).early_exit.policy.name == "fixed"
    assert {p.name for p in folder.iterdir()} == before.keys()


def test_export_to_a_new_folder(results, demo_backbone, disk, monkeypatch):
    monkeypatch.setattr("tgems.runtime.export.load_backbone", lambda entry: demo_backbone)
    words = ("export", "demo", disk.folder / "new", "--results", results)
    disk.fill()
    assert re.fullmatch(rf"error: {disk.folder}/new/[\w.]+: {FULL}", tgems(*words, code=1).strip())
    assert disk.files() <= {"new"}, "an empty folder at most"
    disk.free()
    tgems(*words)
    assert "tgem" in tgems("info", disk.folder / "new")


def test_tables_are_absent_and_named(disk):
    table, path = pd.DataFrame({"a": range(2000)}), disk.folder / "t.csv"
    disk.fill(leave=4096)
    with pytest.raises(UserError, match=rf"t\.\w+: {FULL}"):
        write_table(path, table, table)
    assert not disk.files()
    disk.free()
    write_table(path, table, table)
    assert disk.files() == {"t.csv", "t.md", "t.tex"}


def test_figures_are_absent_and_named(disk):
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    axes.plot(range(100))
    pdf, png = disk.folder / "f.pdf", disk.folder / "f.png"
    disk.fill(leave=4096)
    with pytest.raises(UserError, match=rf"f\.pdf: {FULL}"):
        save(figure, str(pdf), str(png))
    assert not disk.files()
    disk.free()
    save(figure, str(pdf), str(png))
    assert pdf.read_bytes().rstrip().endswith(b"%%EOF") and Image.open(png).size[0] > 100


@pytest.mark.parametrize("room", [0, 65_536])
def test_a_feature_cache_ends_with_one_line_and_resumes(demo_backbone, demo_data, disk, room):
    split, out = SplitFiles.of_folder(demo_data / "digits/test", "zeroshot_classification"), disk.folder / "f/digits"
    disk.fill(leave=room)
    with pytest.raises(UserError, match=rf"{out}.*: {FULL}"):
        extract_features(demo_backbone, split, out, Encoding(batch_size=32))
    assert not out.exists() and not [name for name in disk.files() if "partial" in name]
    disk.free()
    extract_features(demo_backbone, split, out, Encoding(batch_size=32))
    assert load_features(out).manifest["n"] == 70


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set of one shard of 300 kB."""
    root = tmp_path / "remote"
    write_prompts(root, Prompts(("a", "b"), ("a {c}",)))
    write_split((Sample(str(i), os.urandom(150_000), "png", i) for i in range(2)), root / "test", 2)
    from huggingface_hub import constants

    with use({"some/set": root}, monkeypatch) as running:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        yield running


@pytest.mark.parametrize("room", [0, 65_536])
def test_a_download_continues_once_there_is_space(hub, tmp_path, disk, room):
    def fetch():
        copy, task = disk.folder / "copy", "zeroshot_classification"
        fetch_split("small", "test", "hub:some/set", "test", task, tmp_path / RECEIPT, str(copy), "main")

    disk.fill(leave=room)
    with pytest.raises(UserError, match=rf"{disk.folder}/copy/.*: {FULL}") as error:
        fetch()
    assert "\n" not in str(error.value)
    assert not (tmp_path / RECEIPT).exists() and not list(disk.folder.glob("copy/**/*.tar"))
    disk.free()
    hub.requests.clear()
    fetch()
    assert len(read_json(tmp_path / RECEIPT)["shards"]) == 1
    assert not [name for name in disk.files() if name.endswith(".partial")]
    if room:
        assert re.fullmatch(r"bytes=[1-9]\d*-", dict((p, r) for _, p, r in hub.requests)["test/0.tar"])


JOB = """
from pathlib import Path

from tgems.jobs import job

with job("{log}", 1):
    from tgems.outputs import write_text

    {body}
"""


def run_job(log: Path, body: str) -> subprocess.CompletedProcess:
    """Run a job of the workflow in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", JOB.format(log=log, body=body)], env=environment, capture_output=True, text=True
    )


def test_a_job_whose_log_is_on_the_full_disk(disk):
    disk.fill()
    log, out = disk.folder / "job.log", disk.folder / "out.txt"
    run = run_job(log, f"write_text(Path({str(out)!r}), 'word ' * 10_000)")
    assert run.returncode == 1 and re.fullmatch(rf"tgems: error: {out}: {FULL}\n", run.stderr), run.stderr
    run = run_job(log, f"open({str(out)!r}, 'w').write('word ' * 10_000)")
    assert run.returncode == 1 and "error: the output: No space left on device; free space there" in run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    run = run_job(log, "1 / 0")
    assert run.returncode == 1 and "Traceback" in run.stderr, "a bug is shown where the log cannot hold it"
    assert "bug in tgems: ZeroDivisionError: division by zero; the traceback is in the lines above" in run.stderr
    out.unlink()
    disk.free()
    run = run_job(log, f"write_text(Path({str(out)!r}), 'whole')")
    assert run.returncode == 0 and not run.stderr and out.read_text() == "whole" and log.read_text() == ""


def test_a_job_on_a_read_only_disk(disk):
    with disk.read_only():
        run = run_job(disk.folder / "logs/job.log", "pass")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert re.fullmatch(rf"tgems: error: {disk.folder}/logs: Read-only file system; free space .*\n", run.stderr)


@pytest.mark.workflow
def test_the_workflow_ends_with_one_line_and_resumes(tmp_path, disk):
    project = make_project(tmp_path / "project")
    (project / "results").symlink_to(disk.folder)
    target = "results/smoke/data/digits/validation"
    command = (target, "--cores", "1", *SMOKE)
    disk.fill(leave=40_960)
    run = snakemake(project, *command, check=False)
    assert run.returncode == 1 and "Traceback" not in run.stdout, run.stdout
    lines = [line for line in run.stdout.splitlines() if line.startswith("tgems: error:")]
    assert len(lines) == 1 and re.fullmatch(rf"tgems: error: {target}: {FULL}", lines[0]), run.stdout
    assert not (project / target).exists() and not [name for name in disk.files() if "partial" in name]
    disk.free()
    snakemake(project, *command)
    assert (project / target / "nshards.txt").read_text() == "1\n"
