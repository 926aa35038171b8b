"""Commands about backbones and about the runs of the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from tgems.cli.console import ATTENTION, command, print_table, say


@command()
def macs(
    models: Annotated[list[str], typer.Argument(help="open_clip architectures, or `local-dir:FOLDER`.")],
    token_merging: Annotated[int, typer.Option(min=0, help="Number of tokens that each block merges.")] = 0,
) -> None:
    """Print what each exit of an image encoder costs, in multiply-accumulates. Loads no weights."""
    from tgems.profiling.cost_table import print_tables

    print_tables(models, token_merging)


@command()
def export(
    backbone: Annotated[str, typer.Argument(help="Its name in the run's configuration.")],
    to: Annotated[Path, typer.Argument(help="Folder to write; a T-GEM that it holds is replaced.")],
    results: Annotated[Path, typer.Option(help="Results folder of a finished run.")] = Path("results"),
    policy: Annotated[
        str, typer.Option(help="A policy of the run that decides image by image; FILE.py:CLASS for your own.")
    ] = "tgem",
    rate: Annotated[float, typer.Option(help="One of the run's rate targets; not used for fixed exits.")] = 0.6,
    exit_block: Annotated[
        int | None, typer.Option(help="For fixed exits: the block after which all images leave.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of the exit modules, if the run has several.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the training; the default is the first.")] = None,
) -> None:
    """Save a trained T-GEM of a finished run as a folder that can be used, shared and evaluated.

    `tgems export demo-vit-8 my-tgem --policy tgem --rate 0.6`

    Call it in the folder that the run was made in, since backbones are named relative to it.
    """
    from tgems.runtime.export import from_results

    from_results(results, backbone, policy, rate, exit_block, variant, seed).save_pretrained(to)
    say(f"saved in {to}; see `tgems info {to}`")


@command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Results folder of a finished run.")],
    run_b: Annotated[Path, typer.Argument(help="Results folder of another finished run.")],
) -> None:
    """Compare two runs: configuration, digests, and which numbers moved beyond their intervals.

    Ends with code 3 if a number moved, or is in only one run.
    """
    from tgems.reporting.compare import compare_runs

    report = compare_runs(run_a, run_b)
    tables = {"configuration": report.config, "digest": report.digests, "only in one run": report.unmatched}
    for name, rows in tables.items():
        print_table((name, str(run_a), str(run_b)), rows)
    print_table(("number", str(run_a), str(run_b), "moved by"), report.moved)
    say(report.summary)
    if report.differs:
        raise typer.Exit(ATTENTION)


@command(
    "clip-benchmark",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def clip_benchmark(context: typer.Context) -> None:
    """Evaluate a T-GEM with clip_benchmark's own command line.

    `tgems clip-benchmark eval --model FOLDER --dataset wds/NAME --dataset_root FOLDER ...`

    Model type `tgems` is known to it and chosen; `--pretrained` names the data set whose thresholds to use, `default`
    for the first. All other options are clip_benchmark's: `tgems clip-benchmark eval --help` lists it.
    """
    from tgems.runtime.clip_benchmark import run

    run(context.args)
