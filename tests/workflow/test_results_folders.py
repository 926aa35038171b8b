"""Runs of several configurations beside each other: each has a folder of its own, and none is taken for another."""

import pytest
from running import SMOKE, copy_project, failed, snakemake

pytestmark = pytest.mark.workflow


def test_a_report_of_results_of_another_configuration_is_refused(smoke):
    other = ("--config", "rate_targets=[0.7]")
    run = snakemake(smoke, "--report", "results/smoke/other.html", *SMOKE, *other, check=False)
    line = next(line for line in run.stdout.splitlines() if "made with another configuration" in line)
    assert (
        run.returncode
        and "results/smoke/tables" in line
        and "variants.default.rate_targets is [0.6] instead of [0.7]" in line
    )
    assert not (smoke / "results/smoke/other.html").exists()


def test_a_figure_over_tables_of_another_configuration_is_refused(smoke, tmp_path):
    folder, figure = copy_project(smoke, tmp_path), "results/smoke/figures/tradeoff.png"
    arguments = (
        *SMOKE,
        "--config",
        "evaluation={margin: 0.02}",
        "--allowed-rules",
        "plot_figure",
        "--forcerun",
        figure,
    )
    assert "made with another configuration, whose evaluation.margin is" in failed(folder, figure, *arguments)


def test_runs_with_folders_of_their_own_leave_each_other_alone(smoke, tmp_path):
    folder = copy_project(smoke, tmp_path)
    other = ("--config", "results=results/other", "demo={test: 20}")
    snakemake(folder, "--cores", "2", "results/other/data/digits/test", *SMOKE, *other)
    assert (folder / "results/other/data/digits/test/0.tar").is_file()
    assert (folder / "results/other/logs/generate_demo/digits-test.log").is_file()
    assert "Nothing to be done" in snakemake(folder, "-n", *SMOKE).stdout
