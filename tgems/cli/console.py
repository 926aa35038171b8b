"""Shared by all commands: the application, its consoles, and errors on one line."""

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from tgems.errors import printable
from tgems.failures import one_line_errors

ABOUT = """Run, share and compare T-GEMs: exit modules that let an image leave a frozen CLIP encoder early.

A T-GEM is a folder that `tgems train` or `tgems export` writes. A backbone that it names by a relative path is looked
for from the current folder; `--backbone local-dir:FOLDER` reads it from elsewhere.

Exit codes: 0 done; 1 bad input, explained in one line; 2 wrong usage; 3 done, but something needs attention (images
left out, a rate that is not met, an index of mixed origin, runs that differ); 70 a bug in tgems, one line names the
file that holds its traceback; 130 interrupted.
"""
ATTENTION = 3


class _Console(Console):
    """A console that reports a closed pipe as an exception, as other streams do."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Command(TyperCommand):
    """A command that ends with one line where it fails."""

    def invoke(self, ctx: typer.Context) -> Any:
        with one_line_errors(fail, leave=(typer.Exit, typer.Abort)):
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


def say(line: str) -> None:
    """Print a line of results."""
    out.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def fail(line: str) -> None:
    """Print the line that a command ends with if it fails."""
    err.print(printable(line), style="red", markup=False, highlight=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print a warning."""
    err.print(printable(line), style="yellow", markup=False, highlight=False, soft_wrap=True)


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table, or nothing if it has no rows."""
    table = Table(show_header=any(header), box=None, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if table.row_count:
        out.print(table)
