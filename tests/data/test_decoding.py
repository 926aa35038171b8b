"""Images of all modes are decoded as open_clip decodes them, and damaged ones give one exception and no other."""

import io

import numpy as np
import pytest
from PIL import Image

from tgems.data.decoding import ImageError, open_rgb

SMOOTH = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype="uint8")).resize((70, 50))
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "LA", "RGBA", "1"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "P", "1"),
}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned():
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(SMOOTH, "JPEG", exif=exif)


FILES = {f"{kind} {mode}": encoded(SMOOTH.convert(mode), kind) for kind, modes in MODES.items() for mode in modes} | {
    "JPEG turned": turned(),
    "JPEG of several": encoded(SMOOTH, "MPO", save_all=True, append_images=[SMOOTH.rotate(90)]),
    "GIF animated": encoded(SMOOTH, "GIF", save_all=True, append_images=[SMOOTH.rotate(90)]),
    "PNG transparent": encoded(SMOOTH.convert("P"), "PNG", transparency=3),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name):
    """webdataset, with which clip_benchmark reads images, converts them to RGB like this."""
    expected = Image.open(io.BytesIO(FILES[name])).convert("RGB")
    assert np.array_equal(open_rgb(FILES[name]), expected)


@pytest.mark.parametrize("options", [{}, {"transparency": 5}])
def test_grey_images_of_16_bits_are_scaled(options):
    values = np.arange(0, 65536, 16).astype("uint16").reshape(64, 64)
    values[-1, -1] = 65535
    got = np.asarray(open_rgb(encoded(Image.fromarray(values), "PNG", **options)))
    assert np.array_equal(got, np.repeat(values[..., None] // 256, 3, axis=2)) and got.max() == 255


@pytest.mark.parametrize("name", [*FILES, "PNG 16 bits"])
def test_damaged_images_raise_image_error_only(name):
    data = FILES.get(name) or encoded(Image.fromarray(np.arange(3000).astype("uint16").reshape(60, 50)), "PNG")
    random = np.random.default_rng(1)
    refused = 0
    for k in range(200):
        broken = bytearray(data[: random.integers(len(data))] if k % 3 == 0 else data)
        for _ in range(random.integers(1, 8)):
            if broken:
                broken[random.integers(min(len(broken), 60) if k % 2 else len(broken))] = random.integers(256)
        try:
            assert open_rgb(bytes(broken)).mode == "RGB"
        except ImageError as error:
            assert "\n" not in str(error) and " at 0x" not in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "EPS", "ICNS", "JPEG2000", "PPM", "TIFF"])
def test_other_formats_are_named(kind):
    with pytest.raises(ImageError, match=f"^{kind} image, expected one of JPEG, PNG, WEBP, GIF, BMP$"):
        open_rgb(encoded(SMOOTH.resize((64, 64)), kind))


@pytest.mark.parametrize("size", [(1, 65500), (65500, 1)])
def test_an_image_that_would_fill_the_memory_when_resized_is_refused(size):
    with pytest.raises(ImageError, match=f"^{size[0]} x {size[1]} pixels; one side is more than 1000 times the other$"):
        open_rgb(encoded(Image.new("RGB", size), "JPEG"))
    assert open_rgb(encoded(Image.new("RGB", (1000, 1)), "PNG")).size == (1000, 1)


@pytest.mark.parametrize("size", [60_000, 2**31 - 1])
def test_an_image_of_absurd_size_is_refused(size):
    data = bytearray(encoded(Image.new("RGB", (1, 1)), "BMP"))
    data[18:26] = size.to_bytes(4, "little") * 2
    with pytest.raises(ImageError, match="decompression bomb"):
        open_rgb(bytes(data))
