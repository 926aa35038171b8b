"""The command line `tgems`. Parses, calls one function of the library, prints; every import of weight is inside."""

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from tgems.errors import printable
from tgems.failures import one_line_errors
from tgems.process import collect_garbage_rarely

ABOUT = """Run, share and compare T-GEMs: exit modules that let an image leave a frozen CLIP encoder early.

A T-GEM is a folder that `tgems export` writes. A backbone that it names by a relative path is looked for from the
current folder; `--backbone local-dir:FOLDER` reads it from elsewhere.

Exit codes: 0 done; 1 bad input, explained in one line; 2 wrong usage; 3 done, but something needs attention (images
left out, an index of mixed origin, runs that differ); 70 a bug in tgems, one line names the file that holds its
traceback; 130 interrupted.
"""
ATTENTION = 3


class _Console(Console):
    """A console that reports a closed pipe as an exception, as other streams do."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Command(TyperCommand):
    """A command that ends with one line where it fails."""

    def invoke(self, ctx: typer.Context) -> Any:
        with one_line_errors(_fail, leave=(typer.Exit, typer.Abort)):
            return super().invoke(ctx)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help=ABOUT,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command = partial(app.command, cls=_Command)
out, err = (_Console(width=None if s.isatty() else 10_000, stderr=s is sys.stderr) for s in (sys.stdout, sys.stderr))

Model = Annotated[str, typer.Option("--model", "-m", help="Folder of a T-GEM, or its id on the Hugging Face hub.")]
BackboneFrom = Annotated[
    str | None, typer.Option("--backbone", help="Where to read its backbone: local-dir:FOLDER, hf-hub:ID, a file.")
]
TokenizerFrom = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Tokenizer to use instead of the backbone's own: local-dir:FOLDER, or a hub id."),
]
TrustedFile = Annotated[
    Path | None,
    typer.Option("--trust-policy-file", help="Your file of the T-GEM's policy class, if it has one. It is executed."),
]
Index = Annotated[list[Path], typer.Option("--index", "-i", help="Parquet file of `tgems encode`; may be repeated.")]


@command()
def encode(
    images: Annotated[list[str], typer.Argument(help="Image files, folders, globs in quotes, or tar shards.")],
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")] = Path("embeddings.parquet"),
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images per forward pass.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that decode images.")] = 0,
    device: Annotated[str, typer.Option(help="Where to encode: cpu, cuda, cuda:1.")] = "cpu",
    calibration: Annotated[
        str | None, typer.Option(help="Data set whose thresholds to use (see `tgems info`); the default is the first.")
    ] = None,
    max_rate: Annotated[
        float | None, typer.Option(help="No image may cost more than this share of the encoder.")
    ] = None,
    backbone: BackboneFrom = None,
    tokenizer: TokenizerFrom = None,
    trust_policy_file: TrustedFile = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and say so.")
    ] = False,
) -> None:
    """Encode images, each as far as it needs, into a Parquet file that `tgems search` reads.

    Columns: image, exit_block, rate (of the full encoder), embedding (unit vector), and what made it. A killed run goes
    on where it stopped if called again.
    """
    from tgems.runtime.image_files import find_images
    from tgems.runtime.index import encode_images
    from tgems.runtime.model import EarlyExitCLIP

    found = find_images(images)
    loaded = EarlyExitCLIP.from_pretrained(
        model,
        device=device,
        calibration=calibration,
        max_rate=max_rate,
        backbone=backbone,
        tokenizer=tokenizer,
        trust_policy_file=trust_policy_file,
    )
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("encoding", total=len(found))
        done = encode_images(
            loaded, model, found, to, batch_size, workers, skip_bad, lambda n: progress.advance(task, n)
        )
    _say(f"{done.images:,} images in {to}; mean rate {done.rate:.3f} of the encoder")
    for name, reason in done.left_out:
        _warn(f"left out: {name} {reason}")
    if done.left_out:
        raise typer.Exit(ATTENTION)


@command()
def search(
    text: Annotated[str, typer.Argument(help="Text to search for.")],
    index: Index,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="T-GEM; the default is the one that the index names.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
    backbone: BackboneFrom = None,
    tokenizer: TokenizerFrom = None,
    trust_policy_file: TrustedFile = None,
) -> None:
    """Search indices for a text: the images most alike, by cosine.

    Ends with code 3 and a warning where embeddings come from different models or settings.
    """
    from tgems.runtime.search import search_index

    found, warnings = search_index(text, index, model, k, backbone, tokenizer, trust_policy_file)
    for warning in warnings:
        _warn(f"warning: {warning}")
    _print_table(("score", "left after block", "image"), ((f"{s:.4f}", str(b), n) for s, n, b in found))
    if warnings:
        raise typer.Exit(ATTENTION)


@command()
def macs(
    models: Annotated[list[str], typer.Argument(help="open_clip architectures, or `local-dir:FOLDER`.")],
) -> None:
    """Print what each exit of an image encoder costs, in multiply-accumulates. Loads no weights."""
    from tgems.profiling.cost_table import print_tables

    print_tables(models)


@command()
def info(
    folder: Annotated[str, typer.Argument(help="Folder of a T-GEM, or its id on the Hugging Face hub.")],
) -> None:
    """Describe a T-GEM: backbone, policy, costs of its exits, thresholds, results. Loads no weights."""
    from tgems.runtime.tgem_info import describe

    about, costs, thresholds, results = describe(folder)
    _print_table(("", ""), about)
    _print_table(("after block", "spends, of the encoder", "GMACs"), costs)
    _print_table(("thresholds of", "threshold", "mean rate on validation"), thresholds)
    _print_table(("test images of", "thresholds of", "metric", "value", "full encoder", "mean rate"), results)


@command()
def export(
    backbone: Annotated[str, typer.Argument(help="Its name in the run's configuration.")],
    to: Annotated[Path, typer.Argument(help="Folder to write; one that holds a T-GEM is written anew.")],
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

    Call it in the folder that the run was made in, since backbones are named relative to it.
    """
    from tgems.runtime.export import from_results

    from_results(results, backbone, policy, rate, exit_block, variant, seed).save_pretrained(to)
    _say(f"saved in {to}; see `tgems info {to}`")


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
        _print_table((name, str(run_a), str(run_b)), rows)
    _print_table(("number", str(run_a), str(run_b), "moved by"), report.moved)
    _say(report.summary)
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
    for the first. All else is clip_benchmark's: `tgems clip-benchmark eval --help` lists it.
    """
    from tgems.runtime.clip_benchmark import run

    run(context.args)


def _say(line: str) -> None:
    out.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _fail(line: str) -> None:
    err.print(printable(line), style="red", markup=False, highlight=False, soft_wrap=True)


def _warn(line: str) -> None:
    err.print(printable(line), style="yellow", markup=False, highlight=False, soft_wrap=True)


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(show_header=any(header), box=None, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if table.row_count:
        out.print(table)


def main() -> None:
    """Run the command line."""
    collect_garbage_rarely()
    app(prog_name="tgems")


if __name__ == "__main__":
    main()
