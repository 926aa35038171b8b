"""The command that fits a T-GEM's thresholds to one's own images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from tgems.cli.console import ATTENTION, command, err, say, warn
from tgems.cli.own_images import BackboneFrom, BatchSize, Device, SkipBad, TokenizerFrom, TrustedFile, Workers


@command()
def calibrate(
    folder: Annotated[Path, typer.Argument(help="Folder of a T-GEM, which the thresholds are written into.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, globs in quotes, or tar shards.")],
    rate: Annotated[float | None, typer.Option(help="Mean share of the encoder to spend.")] = None,
    keep: Annotated[
        float | None,
        typer.Option(help="Share of what the full encoder says that is kept: best texts, or nearest images."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="File of texts, one per line; a policy that looks at texts needs it.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the thresholds, for `--calibration`.")] = "own",
    replace: Annotated[bool, typer.Option("--replace", help="Replace thresholds that a run has fitted.")] = False,
    upcoming: Annotated[
        int, typer.Option("--next", min=1, help="Number of the next images that forecast and promise are about.")
    ] = 1000,
    confidence: Annotated[float, typer.Option(help="Probability with which a promise is kept.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random samples and divisions.")] = 0,
    by_time: Annotated[
        bool,
        typer.Option(
            "--by-time",
            help="Measure this machine, and use only exits that are worth their time in batches of `--batch-size`.",
        ),
    ] = False,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "cpu",
    backbone: BackboneFrom = None,
    tokenizer: TokenizerFrom = None,
    trust_policy_file: TrustedFile = None,
    skip_bad: SkipBad = False,
) -> None:
    """Fit thresholds to your own images, without labels: for a mean rate, or for a quality that is promised.

    `--rate 0.5` spends half of the encoder on average. `--keep 0.98` finds the lowest rate at which, with 95 percent
    confidence, 98 percent of the next images keep their best text of `--texts`; without texts, images keep on average
    98 percent of their ten nearest neighbours among the images. One of the two is needed.

    `tgems calibrate my-tgem photos --rate 0.5 --name half`

    `tgems calibrate my-tgem photos --keep 0.9 --texts queries.txt --name kept`

    Ends with code 3 if images were left out, or if the rate will not be met.
    """
    from tgems.data.text_files import read_lines
    from tgems.runtime.calibration import LARGEST_SAMPLE
    from tgems.runtime.image_files import find_images
    from tgems.runtime.model import EarlyExitCLIP
    from tgems.runtime.own_folder import require_free_name, save_calibration

    require_free_name(folder, name, replace)
    lines = None if texts is None else read_lines(texts)
    found = find_images(images)
    loaded = EarlyExitCLIP.from_pretrained(
        folder, device=device, backbone=backbone, tokenizer=tokenizer, trust_policy_file=trust_policy_file
    )
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("encoding", total=min(len(found), LARGEST_SAMPLE))
        done = loaded.calibrate(
            found,
            name,
            rate=rate,
            keep=keep,
            texts=lines,
            upcoming=upcoming,
            confidence=confidence,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            skip_bad=skip_bad,
            by_time=by_time,
            advance=lambda n: progress.advance(task, n),
        )
    save_calibration(loaded.backbone, loaded.early_exit, folder, name)
    expected = done.forecast
    if keep is not None:
        what = "of their ten nearest neighbours" if lines is None else f"of their best of {len(lines):,} texts"
        say(f"the next {upcoming:,} images keep {keep:g} {what}, with confidence {confidence:g}")
    say(
        f"expected mean rate of the next {upcoming:,} images: {expected.rate:.3f}, 95 % interval {expected.low:.3f} to "
        f"{expected.high:.3f}"
    )
    if done.chosen is not None:
        own = loaded.early_exit
        asked = own.asked_exits(own.open_exits(name))
        say(
            f"images may leave after block {', '.join(str(own.costs.blocks[k]) for k in asked)} of "
            f"{own.costs.blocks[-1]}; in batches of {batch_size}, a speed-up of {done.chosen.speedup:.2f} is predicted"
        )
    say(f"saved in {folder}; use it by --calibration {name}")
    if len(found) > LARGEST_SAMPLE:
        say(f"fitted to a random sample of {LARGEST_SAMPLE:,} of {len(found):,} images")
    for bad, reason in done.left_out:
        warn(f"left out: {bad} {reason}")
    missed = rate is not None and not expected.low <= rate <= expected.high
    if missed:
        warn(f"warning: the rates that these images allow leave out {rate:g}")
    if done.left_out or missed:
        raise typer.Exit(ATTENTION)
