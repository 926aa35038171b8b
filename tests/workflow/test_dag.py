"""What the workflow would do, without doing it."""

import pytest
from running import planned, snakemake

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def test_lint_is_clean(project):
    assert "Congratulations" in snakemake(project, "--lint").stdout


def test_default_runs_every_stage_but_pretraining(project):
    jobs = planned(snakemake(project, "-n").stdout)
    assert "pretrain_backbone" not in jobs
    assert jobs["train_heads"] == 6 and jobs["train_image_gates"] == 10 and jobs["evaluate"] == 10


def test_pretraining_is_its_own_target_and_writes_below_results(project):
    output = snakemake(project, "-n", "pretrain").stdout
    assert planned(output)["pretrain_backbone"] == 2
    assert all(line.split(": ")[1].startswith("results/") for line in output.splitlines() if "    output:" in line)


def ancestors(project, *arguments) -> dict[str, set[str]]:
    """Rule -> every file that its jobs depend on, directly or not."""
    table = snakemake(project, "--detailed-summary", "--forceall", *arguments).stdout
    lines = table[table.index("output_file") :].splitlines()
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"), strict=False)) for line in lines[1:] if "\t" in line]
    inputs = {row["output_file"]: row["input-file(s)"].split(",") for row in rows}

    def walk(file: str, seen: set[str]) -> set[str]:
        for source in inputs.get(file, []):
            if source not in seen:
                seen.add(source)
                walk(source, seen)
        return seen

    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["rule"], set()).update(walk(row["output_file"], set()))
    return found


def test_no_test_split_reaches_training_or_thresholds(project):
    found = ancestors(project)

    def test_splits(rule):
        return {f for f in found[rule] if f.startswith("results/") and f.endswith("/test")}

    assert test_splits("evaluate"), "the walk sees test splits where they belong"
    for rule in ("train_heads", "train_image_gates", "train_bank_gates", "fit_thresholds"):
        assert found[rule] and not test_splits(rule), rule
    for rule in ("train_heads", "train_image_gates", "train_bank_gates"):
        assert not {f for f in found[rule] if f.endswith("/validation")}, rule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "rate_target=[0.5]"], "unknown key 'rate_target' at the top level; did you mean 'rate_targets'?"),
        (["--config", "rate_targets=[1.2]"], "1.2 is greater than the maximum of 1"),
        (["--config", "rate_targets=[0.1]"], "rate target 0.1 is below the cheapest exit of backbone 'demo-vit-8'"),
        (
            ["--config", "backbones={x: {source: 'local-dir:assets/x'}}"],
            "assets/x/open_clip_config.json does not exist",
        ),
    ],
)
def test_bad_configuration_stops_before_anything_runs(project, arguments, message):
    run = snakemake(project, "-n", *arguments, check=False)
    assert run.returncode != 0
    assert sum(message in line for line in run.stdout.splitlines()) == 1
    assert "Traceback" not in run.stdout
    assert not (project / "results").exists()


def test_paper_configuration_plans_on_data_in_its_layout(project):
    for dataset in ("mscoco_captions", "flickr30k", "imagenet1k", "cifar100", "caltech101", "pets"):
        for split in ("train", "validation", "test"):
            (project / "data" / dataset / split).mkdir(parents=True)
        for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
            (project / "data" / dataset / name).write_text("x\n")
    jobs = planned(snakemake(project, "-n", "--configfile", "configs/paper.yaml").stdout)
    assert jobs["extract_features"] == 3 * (6 * 2 + 1) and "generate_demo" not in jobs
