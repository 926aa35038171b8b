"""Decode images that may be damaged. Imports nothing but Pillow."""

import io
import struct
import zlib

from PIL import Image

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""Exceptions that Pillow raises on truncated images, and on bytes that are not an image."""


def open_rgb(data: bytes) -> Image.Image:
    """Decode an image and convert it to RGB.

    Raises:
        UNREADABLE: The bytes cannot be decoded.
    """
    return Image.open(io.BytesIO(data)).convert("RGB")
