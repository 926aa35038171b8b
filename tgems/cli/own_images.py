"""Commands that use a T-GEM on one's own images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from tgems.cli.console import ATTENTION, command, err, print_table, say, warn

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
BatchSize = Annotated[int, typer.Option(min=1, help="Number of images per forward pass.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of processes that decode images.")]
Device = Annotated[str, typer.Option(help="Device that encodes: cpu, cuda, cuda:1.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and say so.")]
Index = Annotated[list[Path], typer.Option("--index", "-i", help="Parquet file of `tgems encode`; may be repeated.")]

HELD_WITHIN = 0.01


@command()
def encode(
    images: Annotated[list[str], typer.Argument(help="Image files, folders, globs in quotes, or tar shards.")],
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")] = Path("embeddings.parquet"),
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "cpu",
    calibration: Annotated[
        str | None, typer.Option(help="Thresholds to use: a name that `tgems info` lists; the default is the first.")
    ] = None,
    max_rate: Annotated[
        float | None, typer.Option(help="No image may cost more than this share of the encoder.")
    ] = None,
    hold_rate: Annotated[
        float | None,
        typer.Option(help="Mean rate to hold: thresholds move after each batch, best of 8 images or fewer."),
    ] = None,
    backbone: BackboneFrom = None,
    tokenizer: TokenizerFrom = None,
    trust_policy_file: TrustedFile = None,
    skip_bad: SkipBad = False,
) -> None:
    """Encode images, each up to the exit at which it leaves, into a Parquet file that `tgems search` reads.

    Columns: image, exit_block, rate (of the full encoder), embedding (unit vector), and what made it. A killed run goes
    on where it stopped if called again.

    `tgems encode photos --model my-tgem --calibration half --out photos.parquet`

    Ends with code 3 if images were left out, or if the mean rate differs from `--hold-rate` by more than .01.
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
    if hold_rate is not None:
        loaded.hold_rate(hold_rate)
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("encoding", total=len(found))
        done = encode_images(
            loaded, model, found, to, batch_size, workers, skip_bad, lambda n: progress.advance(task, n)
        )
    say(f"{done.images:,} images in {to}; mean rate {done.rate:.3f} of the encoder")
    for name, reason in done.left_out:
        warn(f"left out: {name} {reason}")
    missed = hold_rate is not None and abs(done.rate - hold_rate) > HELD_WITHIN
    if hold_rate is not None and missed:
        warn(
            f"the mean rate is {done.rate:.3f}, not {hold_rate:g}: a rate is held on long streams only; encode more "
            "images, or fewer per batch"
        )
    if done.left_out or missed:
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

    `tgems search "a red four" --index photos.parquet -k 5`

    Ends with code 3 and a warning where embeddings come from different models or settings.
    """
    from tgems.runtime.search import search_index

    found, warnings = search_index(text, index, model, k, backbone, tokenizer, trust_policy_file)
    for warning in warnings:
        warn(f"warning: {warning}")
    print_table(("score", "left after block", "image"), ((f"{s:.4f}", str(b), n) for s, n, b in found))
    if warnings:
        raise typer.Exit(ATTENTION)


@command()
def info(
    folder: Annotated[str, typer.Argument(help="Folder of a T-GEM, or its id on the Hugging Face hub.")],
) -> None:
    """Describe a T-GEM: backbone, policy, costs of its exits, thresholds, results. Loads no weights."""
    from tgems.runtime.tgem_info import OWN_HEADER, describe

    about, costs, thresholds, own, results = describe(folder)
    print_table(("", ""), about)
    print_table(("after block", "spends, of the encoder", "GMACs"), costs)
    print_table(("thresholds of", "threshold", "mean rate on validation"), thresholds)
    print_table(OWN_HEADER, own)
    print_table(("test images of", "thresholds of", "metric", "value", "full encoder", "mean rate"), results)
