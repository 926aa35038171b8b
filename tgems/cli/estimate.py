"""The command that says what a configuration takes before it is run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tgems.cli.console import command, print_table, say, warn


@command()
def estimate(
    configs: Annotated[list[Path], typer.Argument(help="Configuration; of several files, later ones take precedence.")],
    cores: Annotated[int | None, typer.Option(min=1, help="Number of cores; by default those of this machine.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Time to measure the throughput of one core.")] = 20,
    gmacs_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e9, help="Throughput of one core in encoding, instead of measuring it."),
    ] = None,
) -> None:
    """Estimate images, texts, multiply-accumulates, hours and disk of a run by stage. Needs no network.

    Multiply-accumulates follow from closed forms, and hours from the throughput of one core, which is measured with
    random weights. They assume that work is shared by all cores, that a stage takes at least as long as its longest
    job, and that stages do not overlap; downloads and the measuring of speed are not included.

    `tgems estimate configs/laptop.yaml --cores 8`, or `tgems estimate my-tgem-work/config.yaml` after `tgems train`
    """
    from tgems.run_estimate import CountedWorkload, read_configuration, stages, table
    from tgems.throughput import Throughput, measure

    config = read_configuration(configs)
    work = CountedWorkload(config)
    backbone = next(iter(config["backbones"]))
    size = work.largest(backbone)
    if gmacs_per_second is None:
        head = (size.exits - 1, size.summary_dim, size.embed_dim + config["heads"]["hidden"])
        batch = min(config["features"]["batch_size"], 64 if size.macs < 1e10 else 4)
        speed = measure(config["backbones"][backbone], size.macs, batch, head, seconds)
        how = f"measured with {backbone}"
    else:
        speed, how = Throughput.given(gmacs_per_second * 1e9), "assumed"
    cores = cores or os.cpu_count() or 1
    for name in config["backbones"]:
        sizes = work.largest(name)
        say(f"{name}: {sizes.macs / 1e9:.3g} GMACs per image, {sizes.text_macs / 1e9:.3g} per text")
    say(
        f"one core, {how}: encodes with {speed.encoding / 1e9:.1f} GMACs per second, trains with "
        f"{speed.training / 1e9:.1f}; a job takes {speed.start:.1f} seconds to start"
    )
    header = ("stage", "images", "texts", "GMACs", "core hours", f"hours on {cores} cores", "disk, GB")
    print_table(header, table(stages(work, speed), cores))
    if config["features"]["device"] == "cuda":
        say("features.device is cuda: hours are of encoding on CPU cores; --gmacs-per-second takes a GPU's throughput")
    if work.unknown:
        warn(f"not included, since their images can only be counted once they are here: {', '.join(work.unknown)}")
