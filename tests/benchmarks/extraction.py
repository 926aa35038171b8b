"""Throughput of the feature pass against a bare `encode_image` loop over the same loader, and its peak memory.

    python tests/benchmarks/extraction.py                    # ViT-B-32, random weights: ratio of images per second
    python tests/benchmarks/extraction.py --memory           # demo backbone: peak RSS for 2,000 and 20,000 images

Both sides of the ratio alternate in one process, each several times, and medians are compared.
"""

import argparse
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tgems.backbones.load import load_backbone
from tgems.data.tar_index import index_shard
from tgems.data.webdataset import Prompts, Sample, SplitFiles, write_prompts, write_split
from tgems.features.extract import extract_features
from tgems.features.images import image_batches
from tgems.features.shards import Encoding

ROOT = Path(__file__).parents[2]
DEMO = {"pretrained": f"local-dir:{ROOT / 'assets/backbones/demo-vit-8'}"}


def photos(n: int, size: tuple[int, int]):
    """JPEG images of noise smoothed a little, so that decoding costs what it costs for photographs."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield Sample(f"photo-{i:06}", buffer.getvalue(), "jpg", i % 2)


def make_split(folder: Path, n: int, size: tuple[int, int], shard_size: int) -> SplitFiles:
    """A classification split of two classes."""
    write_prompts(folder, Prompts(("left", "right"), ("a photo of something {c}",)))
    write_split(photos(n, size), folder / "test", shard_size)
    return SplitFiles.of_folder(folder / "test", "zeroshot_classification")


def throughput(images: int, batch_size: int, workers: int, repeats: int, dtype: str) -> None:
    """Print the ratio."""
    torch.set_num_threads(1)
    backbone = load_backbone({"model": "ViT-B-32", "pretrained": "random"})
    encoding = Encoding(batch_size=batch_size, workers=workers, dtype=dtype)
    with tempfile.TemporaryDirectory() as root:
        split = make_split(Path(root) / "photos", images, (500, 375), images)
        entries = index_shard(split.shards[0])

        def bare() -> None:
            loader = image_batches(split.shards[0], entries, backbone.preprocess, batch_size, workers, False)
            with torch.no_grad():
                for batch in loader:
                    backbone.model.encode_image(batch.images, normalize=True)

        def ours(number: int) -> None:
            extract_features(backbone, split, Path(root) / f"features-{number}", encoding)

        times: dict[str, list[float]] = {"bare": [], "ours": []}
        for number in range(repeats + 1):
            for name, function in (("bare", bare), ("ours", lambda k=number: ours(k))):
                start = time.perf_counter()
                function()
                if number:
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, seconds in medians.items():
        print(f"{name}: {images / seconds:.1f} images/s")
    print(f"ratio: {medians['bare'] / medians['ours']:.3f} (batch {batch_size}, {workers} workers, {dtype})")


def peak(images: int, shard_size: int) -> float:
    """Peak RSS in MiB of extracting so many small images, in a process of its own."""
    command = [sys.executable, __file__, "--one", str(images), "--shard-size", str(shard_size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def one(images: int, shard_size: int) -> None:
    """Extract, and print the peak RSS in MiB."""
    torch.set_num_threads(1)
    backbone = load_backbone(DEMO)
    encoding = Encoding(dtype="float16")
    with tempfile.TemporaryDirectory() as root:
        split = make_split(Path(root) / "photos", images, (48, 36), shard_size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        extract_features(backbone, split, Path(root) / "f", encoding)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if after == before:
        sys.exit("writing the split took more memory than extraction: the measurement says nothing")
    print(after / 1024)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float16", choices=["float16", "float32"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--shard-size", type=int, default=2000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.shard_size)
    elif options.memory:
        for name, shard_size in (("shards of 2,000", 2000), ("one shard", 20000)):
            small, large = peak(2000, shard_size), peak(20000, shard_size)
            print(f"{name}: 2,000 images {small:.0f} MiB, 20,000 images {large:.0f} MiB, ratio {large / small:.3f}")
    else:
        throughput(options.images, options.batch_size, options.workers, options.repeats, options.dtype)


if __name__ == "__main__":
    main()
