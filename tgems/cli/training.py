"""The command that trains a T-GEM on one's own images."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tgems.cli.console import ATTENTION, command, print_table, say, warn
from tgems.cli.own_images import SkipBad

NAMED = 5
"""Number of images that were left out that are named."""


@command()
def train(
    images: Annotated[
        str,
        typer.Option(help="FOLDER of images, tars:FOLDER, wds:FOLDER, hub:ORG/REPO, or the name of a known data set."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the T-GEM to write.")],
    pretrained: Annotated[
        str, typer.Option(help="Weights: a tag of open_clip, hf-hub:ORG/REPO, local-dir:FOLDER, a file.")
    ] = "openai",
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="open_clip architecture, such as ViT-B-32; not needed for local-dir:FOLDER."
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=1, help="Mean share of the encoder's computation to spend on an image.")
    ] = 0.6,
    captions: Annotated[
        Path | None,
        typer.Option(help="CSV with columns path, caption, group, for a folder; the default is its captions.csv."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for features, modules, tables and figures; the default is OUT-work.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Number of cores; the default is all.")] = None,
    device: Annotated[str, typer.Option(help="Device that encodes: cpu or cuda.")] = "cpu",
    passes: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training images; chosen by their number by default.")
    ] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a T-GEM on your own images, captioned or not, and say what it does with images that were held out.

    Images without captions are enough: exits then learn to imitate the full encoder. A run that was interrupted goes
    on where it stopped if it is called again. Images with the same `group`, or with identical bytes, are never divided
    between training and testing.

    `tgems train --model ViT-B-32 --images photos --rate 0.6 --out my-tgem`

    Ends with code 3 if images were left out.
    """
    from tgems.own_training import train as train_on

    work = work or out.parent / f"{out.name}-work"
    found, bad = train_on(model, pretrained, images, rate, out, work, captions, cores, device, passes, skip_bad, say)
    header = ("policy", "rate", *found.metrics)
    print_table(header, ((name, f"{r:.3f}", *map(str, values)) for name, r, values in found.rows))
    groups = "" if found.n_sources == found.n else f" in {found.n_sources:,} groups"
    say(f"in parentheses: 95 % intervals for these modules, from {found.n:,} images{groups}")
    for one in found.differences:
        say(f"tgem minus {one.competitor} at the same rate, {one.metric}: {one.gain}; {one.verdict}")
    info = shlex.join(["tgems", "info", str(out)])
    say(f"{out}: spends {found.rate:.3f} of the encoder on {found.n:,} held-out images; see `{info}`")
    if found.fixed_is_as_good:
        say("here a fixed exit is as good for no more computation, and needs no gate; to make an encoder of it:")
        export = ["tgems", "export", found.backbone, f"{out}-fixed", "--results", str(work / "results")]
        say(shlex.join([*export, "--policy", "fixed", "--exit-block", str(found.fixed_block)]))
    say(f"tables and figures are in {work / 'results'}")
    for name, reason in bad[:NAMED]:
        warn(f"left out: {name} {reason}")
    if len(bad) > NAMED:
        warn(f"left out: {len(bad) - NAMED:,} more images; {work} names them in packed.json or manifest.json")
    if bad:
        raise typer.Exit(ATTENTION)
