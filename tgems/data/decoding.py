"""Decode images that may be damaged. Needs only Pillow."""

import io
import struct
import zlib

from PIL import Image

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""Exceptions that Pillow raises about bytes that are no image, or a truncated one."""


def open_rgb(data: bytes) -> Image.Image:
    """Decode an image and convert it to RGB.

    Raises:
        UNREADABLE: It cannot be decoded.
    """
    return Image.open(io.BytesIO(data)).convert("RGB")
