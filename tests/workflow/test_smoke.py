"""The whole path on configs/smoke.yaml: complete, repeatable, resumable, and clear about bad input."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from running import SMOKE, copy_project, failed, planned, snakemake

from tgems.backbones.load import load_backbone
from tgems.config.run import ALL_POLICIES
from tgems.data.webdataset import Prompts, write_prompts
from tgems.demo.installing import install
from tgems.provenance import digest_file, read_json

pytestmark = pytest.mark.workflow
TABLES = {"make_tables": 1, "plot_figure": 8, "plot_explorer": 1, "write_overview": 1, "report_pareto": 1}
REPORTING = TABLES | {"measure_latency": 1, "report_latency": 1}


def _contents(project):
    files = [p for kind in ("tables", "figures") for p in (project / "results/smoke" / kind).iterdir()]
    measured = ("latency", "pareto", "budgets")  # which hold speeds
    return {p.name: p.read_bytes() for p in files if p.stem not in measured}


def test_tables_and_figures_are_complete(smoke):
    names = set(_contents(smoke))
    kinds = ("tradeoff", "flops", "semantic_content", "summary", "wins", "areas", "contributions", "drift", "risk")
    tables = {f"{t}.{e}" for t in kinds for e in ("csv", "md", "tex")}
    assert tables <= names and {"tradeoff.png", "rate_calibration.pdf"} <= names
    points = pd.read_csv(smoke / "results/smoke/tables/tradeoff.csv")
    assert set(points["policy"]) == set(ALL_POLICIES)
    assert set(points["calibration"].dropna()) == {"in_domain", "transfer", "online"}
    assert set(points["dataset"]) == {"scenes", "digits"}


def test_speed_is_measured_for_every_rate_and_batch_size(smoke):
    table = pd.read_csv(smoke / "results/smoke/tables/latency.csv")
    assert (smoke / "results/smoke/figures/latency.png").stat().st_size > 10_000
    assert set(table["encoder"]) == {"full", "early exit", "early exit, exits by time"}
    assert set(table["batch_size"]) == {2}
    early = table.query("encoder == 'early exit'").iloc[0]
    assert early["rate_target"] == 0.6 and abs(early["rate"] - 0.6) < 0.1
    assert early["efficiency"] == pytest.approx(early["speedup"] / early["flops_speedup"], rel=1e-4)


def test_early_exit_is_compared_with_all_else_at_the_same_cost(smoke):
    folder = smoke / "results/smoke"
    assert (folder / "figures/pareto.png").stat().st_size > 10_000 and (folder / "tables/budgets.tex").is_file()
    table = pd.read_csv(folder / "tables/pareto.csv")
    kinds = {"full encoder", "fixed exit", "other exit rule", "T-GEM"}
    assert set(table["kind"]) == kinds and table["value_validation"].notna().all()
    points = pd.read_csv(folder / "tables/tradeoff.csv").query("policy == 'tgem_bank' and calibration == 'in_domain'")
    points = points[
        points["seed"].eq("mean") & points["score_normalisation"].eq("none") & points["dataset"].eq("digits")
    ]
    own = table.query("policy == 'tgem_bank' and dataset == 'digits'")
    assert own[["value", "cost"]].to_numpy() == pytest.approx(points.query("metric == 'acc1'")[["value", "gmacs"]])
    timed = table[table["cost_kind"].eq("ms")]
    assert set(timed["policy"]) == {"full", "tgem"} and set(timed["batch_size"]) == {2} and timed["cost"].gt(0).all()
    found = pd.read_csv(folder / "tables/budgets.csv")
    assert found["budget_of"].unique().tolist() == ["0.6 of demo-vit-8", "demo-vit-8"]
    best = found[found["place"].eq(1) & found["cost_kind"].eq("gmacs")]
    assert len(best) == 2 * 3 and set(best["picked_on"]) == {"validation"}


def test_every_number_can_be_traced(smoke):
    record = read_json(smoke / "results/smoke/tables/provenance.json")
    digits = record["evaluations"]["demo-vit-8/default/digits"]
    assert record["config"]["variants"]["default"]["rate_targets"] == [0.6]
    assert set(digits["modules"]) == {
        *("heads/seed-0", "image/rate-0.60/seed-0", "bank/seed-0"),
        *("confidence/seed-0", "variance/seed-0", "router/seed-0"),
    }
    validation = digits["validation"]
    assert digits["test"]["n"] == 300 and validation["in_domain"]["shards"] != digits["test"]["shards"]
    assert validation["transfer"]["shards"] != validation["in_domain"]["shards"]
    assert (
        digits["weights"] == read_json(smoke / "results/smoke/features/demo-vit-8/digits/test/manifest.json")["weights"]
    )


def test_no_test_split_of_the_demo_reaches_training_or_thresholds(smoke):
    """File by file, since one job encodes all splits; what it made of a split depends on that split alone."""
    rows = [line.split("\t") for line in snakemake(smoke, "-D", *SMOKE).stdout.splitlines() if "\t" in line]
    rules = {row[0]: row[2] for row in rows[1:]}
    inputs = {row[0]: row[4].split(",") for row in rows[1:]}
    encoded = [file for file, rule in rules.items() if rule.startswith("extract_")]
    assert len(encoded) == 1 + 2 * 2
    for file in encoded:
        split = file.removeprefix("results/smoke/features/demo-vit-8/")
        assert f"results/smoke/data/{split}" in inputs[file]
        tars = [path for path in (smoke / "results/smoke/data" / split).iterdir() if path.suffix == ".tar"]
        assert read_json(smoke / file / "manifest.json")["shards"] == {p.name: digest_file(p) for p in tars}
        inputs[file] = [f"results/smoke/data/{split}"]

    def splits(rule):
        found, todo = set(), [file for file, made_by in rules.items() if made_by == rule]
        while todo:
            file = todo.pop()
            if file not in found:
                found.add(file)
                todo += inputs.get(file, [])
        return {Path(file).name for file in found if file.startswith("results/smoke/data/") and (smoke / file).is_dir()}

    assert splits("evaluate") == {"train", "validation", "test"}, "the walk sees test splits where they belong"
    assert splits("fit_thresholds") == {"train", "validation"}
    for rule in ("train_heads", "train_image_gates", "train_bank_gates", "train_gates", "train_lookahead"):
        assert splits(rule) == {"train"}, rule


def test_no_partial_file_is_left(smoke):
    assert not [p for p in (smoke / "results/smoke").rglob("*partial*")]


def test_everything_is_as_readable_as_new_files_are(smoke, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    wanted = {path.is_dir(): path.stat().st_mode for path in tmp_path.iterdir()}
    found = [path for path in (smoke / "results").rglob("*")]
    assert len(found) > 100
    assert not [path for path in found if path.stat().st_mode != wanted[path.is_dir()]]


def test_validation_rates_are_closely_below_the_target(smoke):
    for dataset in ("scenes", "digits"):
        fits = read_json(smoke / f"results/smoke/evaluation/demo-vit-8/default/{dataset}/thresholds.json")["thresholds"]
        fits = [f for f in fits if f["point"]["thresholds"] and f["policy"] != "patience"]
        assert sum(f["score_normalisation"] == "none" for f in fits) == 12
        assert sum(f["score_normalisation"] == "querybank" for f in fits) == (5 if dataset == "scenes" else 0)
        assert len(fits) == (17 if dataset == "scenes" else 12)
        for fit in fits:
            target = fit["point"]["rate_target"]
            assert target - 0.005 <= fit["rate_validation"] <= target, fit


def test_a_second_call_has_nothing_to_do(smoke):
    assert "Nothing to be done" in snakemake(smoke, "--cores", "2", *SMOKE).stdout


def test_report_holds_tables_and_figures(smoke):
    snakemake(smoke, "--report", "results/smoke/report.html", *SMOKE)
    report = (smoke / "results/smoke/report.html").read_text()
    assert all(name in report for name in ("tradeoff.png", "summary.csv", "reconstructed from the paper"))


def test_a_users_own_policy_is_a_file_and_a_word(smoke, tmp_path):
    page = (ROOT / "docs/adding-a-policy.md").read_text()
    own = tmp_path / "my_policies.py"
    own.write_text(re.search(r"```python\n(.*?)```", page, re.S)[1])
    folder = copy_project(smoke, tmp_path)
    policies = ["--config", f"policies=[full,tgem,shuffled,'{own}:ConfirmedConfidence']"]
    jobs = planned(snakemake(folder, "-n", *SMOKE, *policies).stdout)
    assert not {"train_heads", "train_image_gates", "train_bank_gates", "extract_demo_features"} & set(jobs)
    snakemake(folder, "--cores", "2", "results/smoke/tables/tradeoff.csv", *SMOKE, *policies)
    points = pd.read_csv(folder / "results/smoke/tables/tradeoff.csv").query("policy == 'confirmed_confidence'")
    assert set(points["dataset"]) == {"scenes", "digits"} and {"online"} < set(points["calibration"])
    assert points.query("calibration != 'online'")["delta_shuffled"].notna().all()


def test_one_more_rate_target_trains_only_its_own_gates(smoke):
    jobs = planned(snakemake(smoke, "-n", *SMOKE, "--config", "rate_targets=[0.6,0.75]").stdout)
    jobs.pop("total"), jobs.pop("all")
    assert jobs == {"train_image_gates": 1, "fit_thresholds": 2, "evaluate": 2} | REPORTING


def test_one_more_seed_trains_its_own_modules_and_keeps_features(smoke):
    jobs = planned(snakemake(smoke, "-n", *SMOKE, "--config", "seeds=[0,1]").stdout)
    assert jobs["train_heads"] == jobs["train_bank_gates"] == 1 and "extract_demo_features" not in jobs


def test_a_set_without_validation_images_has_only_transferred_thresholds(smoke, tmp_path):
    folder = copy_project(smoke, tmp_path)
    own = ["--config", "datasets={digits: {splits: {validation: none}, calibration: [transfer]}}"]
    jobs = planned(snakemake(folder, "-n", *SMOKE, *own).stdout)
    jobs.pop("total"), jobs.pop("all")
    assert jobs == {"extract_features": 1, "evaluate": 1} | TABLES
    snakemake(folder, "--cores", "2", *SMOKE, *own)
    both = [pd.read_csv(f / "results/smoke/tables/tradeoff.csv").query("dataset == 'digits'") for f in (smoke, folder)]
    before, after = both
    assert set(after["policy"]) == set(ALL_POLICIES) and set(after["calibration"].dropna()) == {"transfer"}
    keys = ["policy", "twin_of", "rate_target", "exit_block", "seed", "metric", "value", "rate"]
    same = before[~before["calibration"].isin(["in_domain", "online"])][keys].sort_values(keys).reset_index(drop=True)
    pd.testing.assert_frame_equal(after[keys].sort_values(keys).reset_index(drop=True), same)
    wins = pd.read_csv(folder / "results/smoke/tables/wins.csv").query("dataset == 'digits'")
    assert len(wins) and set(wins["calibration"]) == {"transfer"} and wins["competitor"].notna().all()
    summary = pd.read_csv(folder / "results/smoke/tables/summary.csv")
    assert summary.query("policy == 'tgem'")["digits (transfer) acc1"].notna().all()
    areas = pd.read_csv(folder / "results/smoke/tables/areas.csv").query("dataset == 'digits'")
    assert areas["area"].notna().any() and areas["area_validation"].isna().all()


def test_a_killed_run_resumes_to_the_same_bytes_on_one_core(smoke, project):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *SMOKE]
    child = subprocess.Popen(
        command, cwd=project, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    heads = project / "results/smoke/logs/train_heads/demo-vit-8-default-0.log"
    deadline = time.monotonic() + 240
    while not heads.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert heads.exists()
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (project / "results/smoke/tables").exists()
    snakemake(project, "--unlock", *SMOKE)
    snakemake(project, "--cores", "1", "--rerun-incomplete", *SMOKE)
    assert _contents(project) == _contents(smoke)


def test_pretraining_gives_a_backbone_that_can_be_shipped(project):
    small = ["demo={backbone: 60}", "pretraining={samples_seen: 160, batch_size: 16}"]
    snakemake(project, "--cores", "1", "results/smoke/backbones/demo-vit-8", *SMOKE, "--config", *small)
    install(project / "results/smoke/backbones", project / "shipped", test_images=20)
    card = (project / "shipped/demo-vit-8/README.md").read_text()
    assert "60 digit scenes" in card and "| scenes text_retrieval_recall@1 |" in card
    shipped = load_backbone({"pretrained": f"local-dir:{project / 'shipped/demo-vit-8'}"})
    assert (
        shipped.weights_digest
        == load_backbone({"pretrained": f"local-dir:{project / 'results/smoke/backbones/demo-vit-8'}"}).weights_digest
    )


def test_an_empty_shard_is_named_and_leaves_no_features(project):
    write_prompts(project / "data/own", Prompts(("a", "b"), ("{c}",)))
    for split in ("validation", "test"):
        (project / "data/own" / split).mkdir()
        (project / f"data/own/{split}/nshards.txt").write_text("1\n")
        tarfile.open(project / f"data/own/{split}/0.tar", "w").close()
    own = "datasets={own: {source: 'wds:data/own', task: zeroshot_classification}}"
    target = "results/smoke/features/demo-vit-8/own/test"
    output = failed(project, target, *SMOKE, "--config", own)
    assert "data/own/test/0.tar: the shard holds no sample" in output
    assert not [p for p in (project / "results/smoke/features").rglob("*") if p.is_file()]


JOINT = ("--config", "variants={joint: {training: {scheme: joint}, joint: {passes: 1}}}")


def test_joint_t_gems_are_reported_beside_policies_on_staged_heads(smoke, tmp_path):
    folder = copy_project(smoke, tmp_path)
    root = "results/smoke/evaluation/demo-vit-8/joint/scenes"
    snakemake(folder, "--cores", "2", f"{root}/tradeoff.parquet", *SMOKE, *JOINT)
    points = pd.read_parquet(folder / root / "tradeoff.parquet")
    staged = pd.read_parquet(folder / root.replace("joint", "default") / "tradeoff.parquet")
    assert set(points["policy"]) == set(staged["policy"])
    keys = ["policy", "score_normalisation", "metric", "exit_block", "rate_target", "value"]
    for policy in ("margin", "fixed", "saturation"):
        own, other = (p[p["policy"].eq(policy)][keys].reset_index(drop=True) for p in (points, staged))
        assert own.equals(other), "on the same heads"
    for policy, metrics in (("tgem", 6), ("tgem_bank", 3)):
        rows = points[
            points["policy"].eq(policy) & points["score_normalisation"].eq("none") & points["seed"].eq("mean")
        ]
        counts = rows.groupby("calibration").size().to_dict()
        assert counts == {"in_domain": metrics, "online": metrics} and rows["rate"].between(0.2, 1).all()
    normalised = points[points["score_normalisation"] == "querybank"]
    assert set(normalised["direction"]) == {"text_to_image"} and (normalised["gmacs_query_bank"] > 0).all()
    assert not normalised["policy"].isin(["tgem_bank", "margin", "shuffled"]).any()
    both = points.query("policy == 'full' and direction == 'text_to_image'").drop_duplicates(
        ["score_normalisation", "rate"]
    )
    extra = both.set_index("score_normalisation")
    paid = extra.loc["querybank", "gmacs"] - extra.loc["none", "gmacs"]
    assert paid == pytest.approx(extra.loc["querybank", "gmacs_query_bank"])


@pytest.fixture
def damaged(smoke, tmp_path):
    """A finished project to break."""
    return copy_project(smoke, tmp_path)


def test_a_truncated_cache_is_named(damaged):
    cache = damaged / "results/smoke/features/demo-vit-8/digits/test.shards/0/000.safetensors"
    cache.write_bytes(cache.read_bytes()[:1000])
    parts = "results/smoke/evaluation/demo-vit-8/default/digits/tradeoff.parquet"
    output = failed(damaged, parts, "--forcerun", "evaluate", *SMOKE)
    assert "0/000.safetensors: truncated, altered or missing; delete the folder results/smoke/features/" in output
    assert not (damaged / parts).exists()


def test_a_cache_of_other_weights_is_named(damaged):
    manifest = damaged / "results/smoke/features/demo-vit-8/digits/test/manifest.json"
    text = manifest.read_text()
    weights = read_json(manifest)["weights"]
    manifest.write_text(text.replace(weights, "f00d" * 16))
    parts = "results/smoke/evaluation/demo-vit-8/default/digits/tradeoff.parquet"
    output = failed(damaged, parts, "--forcerun", "evaluate", *SMOKE)
    assert "cached with weights 'f00d" in output and weights in output
