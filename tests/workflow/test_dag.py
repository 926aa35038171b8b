"""What the workflow would do, without doing it."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from running import planned, snakemake

pytestmark = pytest.mark.workflow


def test_lint_is_clean(project):
    run = subprocess.run([sys.executable, ROOT / ".ci/lint_workflow.py"], cwd=project, capture_output=True, text=True)
    assert run.returncode == 0 and "no other lint" in run.stdout, run.stdout


def test_default_runs_every_stage_but_pretraining(project):
    jobs = planned(snakemake(project, "-n").stdout)
    assert "pretrain_backbone" not in jobs
    assert (
        jobs["train_heads"] == 6
        and jobs["train_image_gates"] == 10
        and jobs["evaluate"] == 10
        and jobs["train_gates"] == 6
    )


def test_pretraining_is_its_own_target_and_writes_below_results(project):
    output = snakemake(project, "-n", "pretrain").stdout
    assert planned(output)["pretrain_backbone"] == 2
    assert all(line.split(": ")[1].startswith("results/") for line in output.splitlines() if "    output:" in line)


def upstream(project, *arguments: str) -> dict[str, set[str]]:
    """Rule -> labels (rule and wildcards) of every job that its jobs depend on, directly or not."""
    dot = snakemake(project, "--dag", "dot", "--forceall", *arguments).stdout
    labels = dict(re.findall(r'(\d+)\[label = "([^"]*)"', dot))
    needs: dict[str, list[str]] = {}
    for source, target in re.findall(r"(\d+) -> (\d+)", dot):
        needs.setdefault(target, []).append(source)

    def walk(job: str, seen: set[str]) -> set[str]:
        for source in needs.get(job, []):
            if source not in seen:
                seen.add(source)
                walk(source, seen)
        return seen

    found: dict[str, set[str]] = {}
    for job, label in labels.items():
        found.setdefault(label.split("\\n")[0], set()).update(labels[j] for j in walk(job, set()))
    return found


@pytest.mark.parametrize("name", ["paper", "laptop"])
def test_no_test_split_reaches_training_or_thresholds(project, name):
    """Of the demo, whose splits are encoded by one job, tests/workflow/test_smoke.py says the same by files."""
    found = upstream(project, "--configfile", f"configs/{name}.yaml")

    def splits(rule):
        return {re.search(r"split: (\w+)", label)[1] for label in found[rule] if "split: " in label}

    assert splits("evaluate") == {"train", "validation", "test"}, "the walk sees test splits where they belong"
    assert splits("fit_thresholds") == {"train", "validation"}
    for rule in ("train_heads", "train_image_gates", "train_bank_gates", "train_gates", "train_lookahead"):
        assert splits(rule) == {"train"}, rule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "rate_target=[0.5]"], "unknown key 'rate_target' at the top level; did you mean 'rate_targets'?"),
        (["--config", "rate_targets=[1.2]"], "it should be less than or equal to 1"),
        (["--config", "rate_targets=[0.1]"], "rate target 0.1 is below the cheapest exit of backbone 'demo-vit-8'"),
        (
            ["--config", "backbones={x: {pretrained: 'local-dir:assets/x'}}"],
            "folder assets/x does not exist",
        ),
    ],
)
def test_bad_configuration_stops_before_anything_runs(project, arguments, message):
    run = snakemake(project, "-n", *arguments, check=False)
    assert run.returncode != 0
    assert sum(message in line for line in run.stdout.splitlines()) == 1
    assert "Traceback" not in run.stdout
    assert not (project / "results").exists()


def test_shipped_backbones_are_found_from_everywhere(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    config = str(project / "configs/smoke.yaml")
    jobs = planned(snakemake(project, "-n", "--directory", str(tmp_path / "elsewhere"), "--configfile", config).stdout)
    assert jobs["train_heads"] == 1 and jobs["extract_training_features"] == 1


def test_a_duplicate_key_is_named_with_its_line(project):
    text = (project / "configs/smoke.yaml").read_text()
    (project / "twice.yaml").write_text(f"{text}seeds: [1]\n")
    run = snakemake(project, "-n", "--configfile", "twice.yaml", check=False)
    assert run.returncode and "twice.yaml, line" in run.stdout and "key 'seeds' is also in line" in run.stdout


def test_paper_configuration_plans_without_network_and_data(project):
    jobs = planned(snakemake(project, "-n", "--configfile", "configs/paper.yaml").stdout)
    assert jobs["fetch_split"] == 5 * 2 + 1 - 1, "train once, and no validation images of imagenet1k"
    assert jobs["fit_thresholds"] == 6 * 4 and jobs["evaluate"] == 6 * 5
    assert jobs["extract_features"] == 6 * jobs["fetch_split"] and "generate_demo" not in jobs
    assert jobs["encode_part"] == 6 * (13 + 16) and jobs["check_references"] == 1


def test_a_set_without_validation_images_is_calibrated_elsewhere(project):
    own = "{source: demo, task: zeroshot_classification, splits: {validation: none}, calibration: [transfer]}"
    jobs = planned(snakemake(project, "-n", "--config", f"datasets={{digits: {own}}}").stdout)
    assert jobs["evaluate"] == 10 and jobs["fit_thresholds"] == 8
    encoding = {name: n for name, n in jobs.items() if name.startswith("extract")}
    assert encoding == {"extract_training_features": 2, "extract_demo_features": 6, "extract_features": 2}
    assert jobs["generate_demo"] == 10


def test_a_joint_variant_trains_heads_and_gates_of_each_target_together(project):
    jobs = planned(snakemake(project, "-n", "--config", "variants={joint: {training: {scheme: joint}}}").stdout)
    assert jobs["train_joint"] == 2 * 2 * 5 * 3 and jobs["train_heads"] == 6
    assert not {"train_image_gates", "train_bank_gates", "train_lookahead"} & set(jobs)


@pytest.mark.parametrize(
    ("policies", "figures"),
    [
        ("full,fixed", {"tradeoff", "semantic_content", "risk"}),
        ("full,oracle", {"tradeoff", "semantic_content"}),
        ("full,hull", {"tradeoff", "semantic_content", "policies", "contributions"}),
        (
            "full,fixed,saturation,tgem",
            {"tradeoff", "semantic_content", "risk", "policies", "contributions", "rate_calibration"}
            | {"exit_histogram", "gallery"},
        ),
    ],
)
def test_only_figures_that_have_something_to_show_are_plotted(project, policies, figures):
    output = snakemake(
        project, "-n", "figures", "--config", f"policies=[{policies}]", "latency={batch_sizes: []}"
    ).stdout
    assert set(re.findall(r"results/figures/(\w+)[.]png", output)) == figures | {"pareto"}
