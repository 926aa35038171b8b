"""The command line `tgems`. Parses, calls one function of the library, prints; every import of weight is inside.

Exit codes: 0 done; 1 bad input, one line says what; 2 wrong usage; 3 done, but something needs attention (images left
out, an index of mixed origin, runs that differ).
"""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=__doc__.split("\n")[0])
out, err = Console(), Console(stderr=True)
ATTENTION = 3

Model = Annotated[
    str, typer.Option("--model", "-m", help="Folder of a saved T-GEM, or its id on the Hugging Face hub.")
]
Device = Annotated[str, typer.Option(help="Where to encode: cpu or cuda.")]
Thresholds = Annotated[str | None, typer.Option("--calibration", help="Data set whose thresholds to use.")]
MaxRate = Annotated[float | None, typer.Option(help="No image may cost more than this share of the encoder.")]


@contextmanager
def _one_line():
    """Bad input ends with one line and code 1."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        err.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def encode(
    images: Annotated[list[str], typer.Argument(help="Image files, folders, globs, or tar shards.")],
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="Parquet file of embeddings.")] = Path("embeddings.parquet"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    device: Device = "cpu",
    calibration: Thresholds = None,
    max_rate: MaxRate = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
) -> None:
    """Encode images, each as far as it needs, into a Parquet file; a killed run goes on where it stopped."""
    with _one_line():
        from tgems.runtime.folder import SharedEarlyExitCLIP
        from tgems.runtime.index import encode_images

        loaded = SharedEarlyExitCLIP.from_pretrained(model, calibration=calibration, max_rate=max_rate).to(device)
        done = encode_images(loaded, model, images, to, batch_size, workers, skip_bad)
    out.print(f"{done.images:,} images in {to}; mean rate {done.rate:.3f} of the encoder")
    for name, reason in done.left_out:
        err.print(f"[yellow]left out:[/yellow] {name} {reason}", highlight=False, soft_wrap=True)
    if done.left_out:
        raise typer.Exit(ATTENTION)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    index: Annotated[list[Path], typer.Option("--index", "-i", help="Parquet files of `tgems encode`.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="T-GEM; left out: the one that the index names.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
) -> None:
    """Search an index for a text."""
    with _one_line():
        from tgems.runtime.index import search_index

        found, warnings = search_index(text, index, model, k)
    for warning in warnings:
        err.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)
    _print_table(("score", "image", "left after block"), ((f"{s:.4f}", n, str(b)) for s, n, b in found))
    if warnings:
        raise typer.Exit(ATTENTION)


@app.command()
def macs(
    models: Annotated[list[str], typer.Argument(help="open_clip architectures, or `local-dir:FOLDER`.")],
) -> None:
    """Print what each exit of an image encoder costs."""
    from tgems.profiling.macs import main

    raise typer.Exit(main(models))


@app.command()
def info(folder: Annotated[Path, typer.Argument(help="Folder of a saved T-GEM.")]) -> None:
    """Say what a saved T-GEM is: backbone, policy, costs, thresholds. Loads no weights."""
    with _one_line():
        from tgems.runtime.describe import describe

        about, costs, thresholds = describe(folder)
    _print_table(("", ""), about)
    _print_table(("after block", "spends, of the encoder", "GMACs"), costs)
    _print_table(("data set", "threshold", "mean rate on validation"), thresholds)


@app.command()
def export(
    backbone: Annotated[str, typer.Argument(help="Its name in the run's configuration.")],
    to: Annotated[Path, typer.Argument(help="Folder to write.")],
    results: Annotated[Path, typer.Option(help="Results folder of a finished run.")] = Path("results"),
    policy: Annotated[str, typer.Option(help="tgem, tgem_bank, max_softmax, entropy, margin, ..., fixed.")] = "tgem",
    rate: Annotated[float, typer.Option(help="One of the run's rate targets.")] = 0.6,
    exit_block: Annotated[int | None, typer.Option(help="For `fixed`: block after which all leave.")] = None,
    variant: Annotated[str | None, typer.Option(help="Left out: the configuration's first.")] = None,
    seed: Annotated[int | None, typer.Option(help="Left out: the first.")] = None,
) -> None:
    """Save a trained T-GEM of a run as a folder that can be used, shared and evaluated."""
    with _one_line():
        from tgems.runtime.export import from_results

        from_results(results, backbone, policy, rate, exit_block, variant, seed).save_pretrained(to)
    out.print(f"saved in {to}; `tgems info {to}` says more")


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Results folder.")],
    run_b: Annotated[Path, typer.Argument(help="Another.")],
) -> None:
    """Compare two runs: configuration, digests, and which numbers moved beyond their intervals."""
    with _one_line():
        from tgems.reporting.compare import compare_runs

        report = compare_runs(run_a, run_b)
    _print_table(("configuration", str(run_a), str(run_b)), report.config)
    _print_table(("digest", str(run_a), str(run_b)), report.digests)
    _print_table(("number", str(run_a), str(run_b), "moved"), report.moved)
    out.print(report.summary)
    if report.differs:
        raise typer.Exit(ATTENTION)


@app.command("clip-benchmark", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def clip_benchmark(context: typer.Context) -> None:
    """Evaluate a saved T-GEM with clip_benchmark's own command line: `tgems clip-benchmark eval --model FOLDER ...`.

    Model type `tgems` is registered and chosen; `--pretrained` names the calibration, `default` for the first. All
    other arguments are clip_benchmark's (`tgems clip-benchmark eval --help`).
    """
    from tgems.runtime.clip_benchmark import run

    run(context.args)


def _print_table(header: tuple[str, ...], rows) -> None:
    table = Table(*header, show_header=any(header), box=None, pad_edge=False)
    count = 0
    for row in rows:
        table.add_row(*row)
        count += 1
    if count:
        out.print(table)


def main() -> None:
    """Entry point."""
    app(sys.argv[1:], prog_name="tgems")


if __name__ == "__main__":
    main()
