"""Render a digit scene as an image. The same scene always gives the same pixels."""

import io

import numpy as np
from PIL import Image, ImageDraw

from tgems.demo.handwriting import load_handwriting
from tgems.demo.scenes import CANVAS, PlacedDigit, Scene

RGB = {
    "red": (0.92, 0.22, 0.20),
    "green": (0.22, 0.80, 0.30),
    "blue": (0.28, 0.45, 1.00),
    "yellow": (0.95, 0.86, 0.20),
    "white": (1.0, 1.0, 1.0),
}
NOISE_AT_FULL_DIFFICULTY = 0.13
CONTRAST_LOSS_AT_FULL_DIFFICULTY = 0.5
STROKES_AT_FULL_DIFFICULTY = 5


def render(scene: Scene) -> np.ndarray:
    """Render a scene.

    Difficulty adds dim clutter strokes behind the digits, lowers their contrast and adds Gaussian noise.

    Returns:
        `[32, 32, 3]` uint8.
    """
    if scene.layout == "plain":
        alpha = coverage(scene.digits[0])[..., None]
        return np.round(255 * np.repeat(alpha, 3, axis=-1)).astype(np.uint8)
    rng = np.random.default_rng(scene.render_seed)
    background = rng.uniform(0.0, 0.12, 3)
    image = np.broadcast_to(background, (CANVAS, CANVAS, 3)).astype(np.float32)
    strokes = int(rng.integers(0, 1 + round(STROKES_AT_FULL_DIFFICULTY * scene.difficulty)))
    if strokes:
        image = image + _clutter(rng, strokes)
    for digit in scene.digits:
        color = np.array(RGB[digit.color]) * rng.uniform(0.85, 1.0)
        color = color + (background - color) * CONTRAST_LOSS_AT_FULL_DIFFICULTY * scene.difficulty * rng.random()
        alpha = coverage(digit)[..., None]
        image = image * (1 - alpha) + color * alpha
    image = image + rng.normal(0.0, NOISE_AT_FULL_DIFFICULTY * scene.difficulty + 1e-3, image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode `[h, w, 3]` uint8 as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def coverage(digit: PlacedDigit, size: tuple[int, int] = (CANVAS, CANVAS)) -> np.ndarray:
    """Compute the coverage of each pixel by one digit, in [0, 1]: its 8 x 8 source rotated, sheared and scaled.

    Args:
        digit: The digit, with lengths in pixels of this canvas.
        size: Width and height of the canvas.

    Returns:
        `[height, width]` float32.
    """
    glyph = Image.fromarray(np.pad(load_handwriting()[0][digit.source], 2))
    cos, sin = np.cos(digit.angle), np.sin(digit.angle)
    to_glyph = np.array([[1, digit.shear], [0, 1]]) @ np.array([[cos, sin], [-sin, cos]]) * (8 / digit.extent)
    offset = 6 - to_glyph @ np.array([digit.x, digit.y])
    matrix = (*to_glyph[0], offset[0], *to_glyph[1], offset[1])
    drawn = glyph.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(drawn) * 1.2, 0, 1)


def _clutter(rng: np.random.Generator, strokes: int) -> np.ndarray:
    """Draw grey line strokes, `[32, 32, 1]` float32."""
    layer = Image.new("F", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(layer)
    for _ in range(strokes):
        ends = rng.uniform(0, CANVAS, 4)
        draw.line([tuple(ends[:2]), tuple(ends[2:])], fill=float(rng.uniform(0.1, 0.4)), width=int(rng.integers(1, 3)))
    return np.asarray(layer)[..., None]
