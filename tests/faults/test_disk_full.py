"""A disk that is full: one line names the output and the way out, nothing half is left, and with space it goes on.

Each output is written with less and less space, down to none, so that the disk is full at different places.
"""

import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import ROOT, options
from data.hub_server import use
from faults.small_disk import PAGE, mounted
from running import SMOKE, make_project, snakemake
from runtime.test_cli import tgems

from tgems.data.fetch import fetch_split
from tgems.data.webdataset import SplitFiles, write_prompts, write_split
from tgems.demo.datasets import PROMPTS, generate_split, samples
from tgems.errors import UserError
from tgems.exits.training_jobs import run_heads
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding
from tgems.reporting.style import save
from tgems.reporting.tables import write_table

SHARES = (0, 0.2, 0.5, 0.9)
"""Free space, as a part of what the output takes; the last file of each is smaller than the rest."""
LINE = re.compile(
    r"(cannot be written \((No space left on device|.*)\); free space there|No space left on device; free)"
)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root can mount a small disk")
    try:
        with mounted(tmp_path / "disk", "64m") as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")


def call(write):
    """The line that a call ends with, or "" if it succeeds."""
    try:
        write()
    except UserError as error:
        return str(error)
    return ""


def check(disk, write, folder, left=lambda found: found):
    """Write with too little space and then with enough; `left` takes away what may stay for the next call."""
    before, space = disk.content(), disk.free()
    assert call(write) == ""
    whole, needed = disk.content(), space - disk.free()
    assert needed >= PAGE
    for share in SHARES:
        for name in whole.keys() - before.keys():
            path = disk.path / name
            if path.is_file():
                path.unlink()
        disk.leave(int(share * needed) // PAGE * PAGE)
        line = call(write)
        assert str(folder) in line and LINE.search(line) and "\n" not in line, (share, line)
        found = {name: data for name, data in disk.content().items() if data is not None}
        assert all(data == whole.get(name) for name, data in left(found).items()), (share, sorted(found))
    disk.empty()
    assert call(write) == ""
    assert disk.content() == whole


def test_a_split_of_a_data_set(disk):
    out = disk.path / "train"
    drawn = list(samples("scenes", "train", 30, 0))
    check(disk, lambda: write_split(drawn, out, 10), out)


def test_class_names(disk):
    out = disk.path / "digits"
    check(disk, lambda: write_prompts(out, PROMPTS["digits"]), out)


def test_features(disk, demo_backbone, demo_data):
    split, out = SplitFiles.of_folder(demo_data / "scenes/test", "zeroshot_retrieval"), disk.path / "features/test"

    def extract():
        extract_features(demo_backbone, split, out, Encoding(batch_size=32))

    check(disk, extract, out.parent)


def test_trained_modules(disk, results, demo_features):
    out = disk.path / "heads/seed-0"
    macs, few = str(results / "profiling/demo/default/macs.json"), options("heads", hidden=8, passes=1, batch_size=70)
    check(disk, lambda: run_heads(str(demo_features / "scenes"), macs, few, 0, str(out)), out)


def test_tables(disk):
    table = pd.DataFrame({"policy": ["tgem", "margin"] * 500, "value": [0.25, 0.5] * 500})
    check(disk, lambda: write_table(disk.path / "tables/summary", table, table), disk.path / "tables/summary")


def test_figures(disk):
    drawing = plt.figure()
    drawing.subplots().imshow([[n * m % 251 for n in range(300)] for m in range(300)])
    out = disk.path / "figures/tradeoff"
    check(disk, lambda: save(drawing, f"{out}.pdf", f"{out}.png"), out)


def test_a_download_from_the_hub_goes_on_once_there_is_space(disk, tmp_path, monkeypatch):
    root, repo = tmp_path / "remote", "someone/wds_scenes"
    write_prompts(root, None)
    generate_split("scenes", "test", 60, 0, root / "test", 60)
    shard, copy = root / "test/0.tar", disk.path / "copy"
    with use({repo: root}, monkeypatch) as hub:

        def fetch():
            fetch_split("own", "test", f"hub:{repo}", "test", "zeroshot_retrieval", out, str(copy), "main")

        out = disk.path / "receipt.json"
        for share in (0, 0.2, 0.4):  # of what is still missing, since an earlier download is kept
            disk.leave(int(share * shard.stat().st_size) // PAGE * PAGE)
            line = call(fetch)
            assert str(copy) in line and LINE.search(line) and "\n" not in line, line
            assert not out.exists() and not (copy / "test/0.tar").exists()
        disk.empty()
        hub.requests.clear()
        fetch()
        assert (copy / "test/0.tar").read_bytes() == shard.read_bytes()
        (resumed,) = [asked for method, path, asked in hub.requests if method == "GET" and path == "test/0.tar"]
        assert int(re.fullmatch(r"bytes=(\d+)-", resumed)[1]) > shard.stat().st_size / 2
    assert not [p for p in copy.rglob("*.partial")]


def one_line(*words) -> str:
    """Output of a command that must fail with one line."""
    output = tgems(*words, code=1)
    assert len(re.findall("error: ", output)) == 1 and LINE.search(output), output
    return output


def test_tgems_export(disk, results, monkeypatch, demo_backbone):
    monkeypatch.setattr("tgems.runtime.export.load_backbone", lambda entry: demo_backbone)
    out = disk.path / "tgem"
    words = ("export", "demo", out, "--results", results, "--rate", 0.6)
    tgems(*words)
    whole, needed = disk.content(), 64 * 2**20 - disk.free()
    disk.clear()
    for share in SHARES:
        disk.leave(int(share * needed) // PAGE * PAGE)
        assert str(out) in one_line(*words)
        assert not [name for name, data in disk.content().items() if data is not None]
    disk.empty()
    tgems(*words)
    assert disk.content() == whole


def test_tgems_encode(disk, saved, pictures):
    out = disk.path / "i.parquet"
    words = ("encode", pictures, "--model", saved, "--out", out)
    tgems(*words)
    whole, needed = disk.content(), 64 * 2**20 - disk.free()
    disk.clear()
    for share in SHARES:
        disk.leave(int(share * needed) // PAGE * PAGE)
        assert str(out) in one_line(*words)
        assert not out.exists() and not [name for name in disk.content() if ".partial" in name]
    disk.empty()
    tgems(*words)
    assert disk.content() == whole


JOB = """
from pathlib import Path

from tgems.jobs import job

with job("logs/train.log", 1):
    from tgems.provenance import write_text

    {body}
"""


@pytest.mark.parametrize("body", ["write_text(Path('out'), 'word ' * 10_000)", "raise ValueError('wrong shape')"])
def test_a_job_whose_log_is_on_the_full_disk_too(disk, body):
    disk.leave(0)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", JOB.format(body=body)], cwd=disk.path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    if "ValueError" in body:  # the traceback of a bug must be somewhere
        assert run.stderr.startswith("Traceback") and "ValueError: wrong shape\n" in run.stderr
        last = run.stderr.splitlines()[-1]
        assert "the traceback is in the lines above, since logs/train.log cannot be written (No space left" in last
    else:
        assert run.stderr.count("\n") == 1 and "error: out: cannot be written (No space left on device)" in run.stderr


@pytest.mark.workflow
def test_the_workflow(disk, tmp_path):
    project = make_project(tmp_path / "project")
    (project / "results").symlink_to(disk.path)
    targets = [f"results/smoke/features/demo-vit-8/scenes/{split}" for split in ("train", "validation", "test")]
    last = ""
    for size in ("2m", "14m"):
        disk.resize(size)
        run = snakemake(project, "--cores", "1", "--rerun-incomplete", *targets, *SMOKE, check=False)
        lines = {line for line in run.stdout.splitlines() if "error: results/smoke/" in line and LINE.search(line)}
        assert run.returncode and len(lines) == 1 and "Traceback" not in run.stdout, run.stdout
        assert not [name for name in disk.content() if ".partial" in name]
        last = lines.pop()
    assert "features" in last
    disk.resize("64m")
    snakemake(project, "--cores", "1", "--rerun-incomplete", *targets, *SMOKE)
    assert all((project / target / "manifest.json").is_file() for target in targets)
