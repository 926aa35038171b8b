"""Draw digit scenes as large as photographs, with captions or labels, to rehearse runs on real data.

The images exercise the code path, sizes and formats of a run on photographs; metrics on them are meaningless.
"""

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image, ImageChops

from tgems.data.webdataset import Sample
from tgems.demo import scenes as sc
from tgems.demo.datasets import RETRIEVAL_SHARES, ZEROSHOT_SHARES
from tgems.demo.rendering import RGB, coverage

LONG, SHORT = 500, 375
SAYINGS = ("{}", "a photo of {}", "there is {}", "{} on a wall", "a picture that shows {}")
STREAMS = {"retrieval": 101, "classification": 102}


def samples(kind: str, split: str, n: int, seed: int) -> Iterator[Sample]:
    """Draw the samples of one split.

    Args:
        kind: `retrieval`, with five captions per image that are true of no other image, or `classification` of a digit.
        split: Part of the handwriting.
        n: Number of samples.
        seed: Seed of all draws.
    """
    shares = RETRIEVAL_SHARES if kind == "retrieval" else ZEROSHOT_SHARES["digits"]
    drawn = sc.scenes(seed, split, STREAMS[kind], n, shares, unique=kind == "retrieval")
    for index, scene in enumerate(drawn):
        key, image = f"s{index:07d}", photo(scene)
        if kind == "retrieval":
            said = sc.caption(sc.full_description(scene))
            yield Sample(key, image, "jpg", captions=tuple(saying.format(said) for saying in SAYINGS))
        else:
            yield Sample(key, image, "jpg", label=scene.digits[0].value)


def photo(scene: sc.Scene) -> bytes:
    """Draw a scene on a large noisy gradient, and return it as a JPEG of 500 x 375 or 375 x 500 pixels.

    The scene is drawn at half that size and enlarged, which takes a third of the time.
    """
    rng = np.random.default_rng(scene.render_seed)
    width, height = (LONG, SHORT) if rng.random() < 0.7 else (SHORT, LONG)
    small = (width // 2, height // 2)
    image, side = _background(rng, small), min(small)
    for digit in scene.digits:
        x, y, extent = (side / sc.CANVAS * length for length in (digit.x, digit.y, digit.extent))
        large = replace(digit, x=x + (small[0] - side) / 2, y=y + (small[1] - side) / 2, extent=extent)
        color = tuple(round(255 * part * rng.uniform(0.8, 1.0)) for part in RGB[digit.color])
        image.paste(color, mask=Image.fromarray((255 * coverage(large, small)).astype(np.uint8)))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    noise = np.frombuffer(rng.bytes(height * width * 3), np.uint8).reshape(height, width, 3) >> 4
    buffer = io.BytesIO()
    Image.fromarray(np.minimum(np.asarray(image), 240) + noise).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draw a blotched gradient of dark colors."""
    corners = Image.fromarray(rng.integers(0, 70, (2, 2, 3), np.uint8))
    blotches = Image.fromarray(rng.integers(0, 50, (9, 12, 3), np.uint8))
    smooth, spots = (layer.resize(size, Image.Resampling.BICUBIC) for layer in (corners, blotches))
    return ImageChops.add(smooth, spots)
