"""A hub data set through the workflow, from a hub on the loopback interface."""

import shutil

import pytest
from data.hub_server import COMMIT, serve
from running import planned, snakemake

from tgems.data.webdataset import write_prompts
from tgems.demo.datasets import generate_split
from tgems.features.cache import load_features
from tgems.provenance import read_json

pytestmark = pytest.mark.workflow
REPO = "someone/wds_scenes"
SPLITS = "{train: 'train[:2]', validation: 'train[2:]'}"
OWN = f"datasets={{own: {{source: 'hub:{REPO}', task: zeroshot_retrieval, splits: {SPLITS}}}}}"
ARGUMENTS = ("--configfile", "configs/smoke.yaml", "--config", OWN, "training={dataset: own}")
FEATURES = "results/smoke/features/demo-vit-8/own"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    root = tmp_path / "remote"
    write_prompts(root, None)
    generate_split("scenes", "train", 30, 0, root / "train", 10)
    generate_split("scenes", "test", 12, 0, root / "test", 10)
    with serve({REPO: root}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_hub_set_is_fetched_once_and_encoded(hub, project, monkeypatch):
    targets = [f"{FEATURES}/{split}" for split in ("train", "validation", "test")]
    output = snakemake(project, "--cores", "2", *targets, *ARGUMENTS).stdout
    assert f"own/test: {REPO}@{COMMIT}" in output
    assert sorted(path for path in hub.downloads() if path.endswith(".tar")) == [
        *("test/0.tar", "test/1.tar", "train/0.tar", "train/1.tar", "train/2.tar")
    ]
    receipt = read_json(project / "results/smoke/data/own/validation.json")
    assert receipt["commit"] == COMMIT and [s["path"] for s in receipt["shards"]] == ["train/2.tar"]
    train, validation = (load_features(project / FEATURES / split) for split in ("train", "validation"))
    assert not set(train.samples["key"]) & set(validation.samples["key"])
    assert validation.manifest["shards"] == {"2.tar": receipt["shards"][0]["sha256"]}
    assert "Nothing to be done" in snakemake(project, "--cores", "1", *targets, *ARGUMENTS).stdout

    shutil.rmtree(project / "results")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snakemake(project, "--cores", "1", "results/smoke/data/own/validation.json", *ARGUMENTS)
    assert read_json(project / "results/smoke/data/own/validation.json") == receipt

    (project / "data/own/train/2.tar").unlink()
    run = snakemake(project, "--cores", "1", f"{FEATURES}/validation", *ARGUMENTS, check=False)
    line = next(line for line in run.stdout.splitlines() if "2.tar: missing since" in line)
    assert "results/smoke/data/own/validation.json was written; delete that receipt and run again" in line
    (project / "results/smoke/data/own/validation.json").unlink()
    run = snakemake(project, "--cores", "1", f"{FEATURES}/validation", *ARGUMENTS, check=False)
    line = next(line for line in run.stdout.splitlines() if "data/own/train/2.tar is missing" in line)
    assert f"connect to download {REPO}@main, or put the data set at data/own" in line
    assert run.returncode and "Traceback" not in run.stdout


def test_a_changed_shard_of_a_folder_is_digested_again(hub, project):
    source = f"datasets={{own: {{source: 'wds:{hub.repos[REPO]}', task: zeroshot_retrieval}}}}"
    arguments = ("results/smoke/data/own/test.json", "--configfile", "configs/smoke.yaml", "--config", source)
    snakemake(project, "--cores", "1", *arguments)
    before = read_json(project / "results/smoke/data/own/test.json")["shards"]
    assert "Nothing to be done" in snakemake(project, "-n", *arguments).stdout
    generate_split("scenes", "test", 12, 1, hub.repos[REPO] / "test", 10)
    assert planned(snakemake(project, "-n", *arguments).stdout)["fetch_split"] == 1
    snakemake(project, "--cores", "1", *arguments)
    assert read_json(project / "results/smoke/data/own/test.json")["shards"] != before
