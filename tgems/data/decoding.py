"""Decode images that may be damaged or hostile: the one place where tgems opens an image. Needs Pillow alone."""

import io

from PIL import Image, UnidentifiedImageError

from tgems.errors import UserError, reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats that are decoded, whatever the name of the file says. Pillow's other decoders are never given the bytes."""
MOST_ELONGATED = 1000
"""Largest ratio of the sides. An image of 1 x 65500 pixels takes gigabytes once its short side is resized to 224."""


class ImageError(UserError):
    """Raised for bytes that cannot be decoded as an image; the message is the reason only."""


def open_rgb(data: bytes) -> Image.Image:
    """Decode an image and convert it to RGB, as Pillow's `convert("RGB")` does but for grey images of 16 bits.

    Pillow would clip those to white; their values 0 to 65535 are scaled to 0 to 255. As in open_clip, transparency is
    dropped, an orientation in EXIF is not applied, and only the first frame of an animation is read.

    Raises:
        ImageError: The bytes are damaged, or are not an image in one of `FORMATS`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if max(image.size) > MOST_ELONGATED * min(image.size):
            raise ValueError(
                f"{image.width} x {image.height} pixels; one side is more than {MOST_ELONGATED} times the other"
            )
        if image.mode.startswith("I"):
            image = image.convert("I").point(lambda value: value / 256).convert("L")
        return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise ImageError(_unidentified(data)) from error
    except Exception as error:  # decoders raise exceptions of any class on damaged bytes
        raise ImageError(reason(error)) from error


def _unidentified(data: bytes) -> str:
    """Return why no decoder of `FORMATS` accepts the bytes; other formats are recognised by their first bytes."""
    Image.init()
    start = data[:16].ljust(16)
    known = (name for name, (_, accept) in Image.OPEN.items() if accept is not None and accept(start))
    found = next(known, None)
    if found in FORMATS:
        return f"damaged {found} image"
    return f"{f'{found} image' if found else 'not an image'}, expected one of {', '.join(FORMATS)}"
