"""configs/laptop.yaml: what it plans, and its first steps against a hub on this machine that misbehaves."""

import re

import pytest
import yaml
from conftest import ROOT
from data.hub_server import serve
from faults.small_disk import mounted
from running import planned, snakemake

from tgems.demo.hub_copies import repository, write_copy
from tgems.demo.hub_rehearsal import pinned_commits
from tgems.provenance import read_json
from tgems.run_estimate import CountedWorkload, read_configuration

pytestmark = pytest.mark.workflow
LAPTOP = ("--configfile", "configs/laptop.yaml")
CONFIG = yaml.safe_load((ROOT / "configs/laptop.yaml").read_text())
RECEIPT = "results/laptop/data/pets/test.json"


def test_it_takes_the_same_path_as_the_paper(project):
    laptop, paper = (
        planned(snakemake(project, "-n", "--configfile", f"configs/{name}.yaml").stdout) for name in ("laptop", "paper")
    )
    assert set(laptop) == set(paper) and laptop["fetch_split"] == laptop["extract_features"] == 8


def test_the_estimate_knows_the_jobs_that_are_planned(project, monkeypatch):
    monkeypatch.chdir(project)
    for name in ("laptop", "config"):
        jobs = planned(snakemake(project, "-n", "--configfile", f"configs/{name}.yaml").stdout)
        work = CountedWorkload(read_configuration([project / f"configs/{name}.yaml"]))
        trained = {
            kind: job.jobs * len(work.config["backbones"]) for kind, job in work.training_jobs("default").items()
        }
        assert trained["heads"] == jobs["train_heads"] and trained["bank"] == jobs["train_bank_gates"]
        assert trained["image"] == jobs["train_image_gates"] and trained["lookahead"] == jobs["train_lookahead"]
        assert sum(trained[kind] for kind in ("confidence", "variance", "router")) == jobs["train_gates"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the set pets, whose commit is pinned, and the environment of a user who has a cache of their own."""
    write_copy("pets", tmp_path / "remote")
    repo = repository("pets")
    with serve({repo: tmp_path / "remote"}) as running:
        running.commits[repo] = pinned_commits(CONFIG)[repo]
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
        yield running


def test_each_refusal_ends_with_one_line_and_the_next_run_goes_on(project, hub):
    def line():
        run = snakemake(project, "--cores", "1", RECEIPT, *LAPTOP, check=False)
        assert run.returncode == 1 and "Traceback" not in run.stdout, run.stdout
        found = {line for line in run.stdout.splitlines() if line.startswith("tgems: error:")}
        assert len(found) == 1 and not (project / RECEIPT).exists(), run.stdout
        return found.pop()

    hub.busy = [90]
    assert line().endswith("too many requests; run again in 90 seconds, or set HF_TOKEN for a higher limit")
    hub.gated_files.add(repository("pets"))
    assert line().endswith("cannot be read: its owner must grant access; ask there, then set HF_TOKEN")
    hub.gated_files.clear()
    hub.damaged.add("test/0.tar")
    assert re.search(r"pets: test/0\.tar of clip-benchmark/wds_vtab-pets@\w+ arrived damaged; run again", line())
    hub.damaged.clear()
    hub.requests.clear()
    hub.break_off["test/0.tar"] = [100_000]
    snakemake(project, "--cores", "1", RECEIPT, *LAPTOP)
    assert set(hub.downloads()) == {"test/0.tar"} and len(hub.requests) > 1, "finished files are kept"
    receipt = read_json(project / RECEIPT)
    assert receipt["commit"] == receipt["revision"] == pinned_commits(CONFIG)[repository("pets")]


def test_a_full_disk_ends_with_one_line_and_the_next_run_goes_on(project, hub, tmp_path):
    with mounted(tmp_path / "disk", "12m") as disk:
        (project / "data").symlink_to(disk.folder)
        disk.fill(leave=200_000)
        run = snakemake(project, "--cores", "1", RECEIPT, *LAPTOP, check=False)
        assert run.returncode == 1 and "Traceback" not in run.stdout, run.stdout
        (line,) = {line for line in run.stdout.splitlines() if line.startswith("tgems: error:")}
        assert re.fullmatch(r"tgems: error: data/pets/\S+: cannot be written \(No space left on device\); .*", line)
        assert not (project / RECEIPT).exists() and not [name for name in disk.files() if name.endswith(".tar")]
        disk.free()
        snakemake(project, "--cores", "1", RECEIPT, *LAPTOP)
        assert (project / RECEIPT).exists() and "pets/test/0.tar" in disk.files()
