"""Image files for tests, the pixels that come out of them, and the letters that show how a picture is turned."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from omnicap_cli.media.images import decode_image, header_size

LIMIT = 2_000_000

# EXIF 2.32, 4.6.4 A, Orientation: which side of the scene the stored row 0 and column 0 are.
# The stored picture is `abc` over `def`; what is shown follows from that by hand.
SHOWN = {
    1: ("abc", "def"),
    2: ("cba", "fed"),
    3: ("fed", "cba"),
    4: ("def", "abc"),
    5: ("ad", "be", "cf"),
    6: ("da", "eb", "fc"),
    7: ("fc", "eb", "da"),
    8: ("cf", "be", "ad"),
}
COLORS = {
    "a": (250, 10, 10),
    "b": (10, 250, 10),
    "c": (10, 10, 250),
    "d": (250, 250, 10),
    "e": (10, 250, 250),
    "f": (90, 90, 90),
}
STORED = ("abc", "def")


def save_file(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return str(path)


def encoded_image(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(path, limit=LIMIT):
    """Rows of (r, g, b), decoded."""
    image = decode_image(path, max_decode_pixels=limit)
    assert image.mode == "RGB"
    assert header_size(path) == image.size
    return [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]


def decoded_pixels(folder, data, name="picture"):
    return pixels_of(save_file(folder, name, data))


def is_near(rows, expected, tolerance):
    difference = np.abs(np.asarray(rows, dtype=int) - np.asarray(expected, dtype=int))
    return bool((difference <= tolerance).all())


def letter_picture(scale=1):
    picture = Image.new("RGB", (3, 2))
    picture.putdata([COLORS[letter] for row in STORED for letter in row])
    return picture.resize((3 * scale, 2 * scale), Image.Resampling.NEAREST)


def shown_pixels(orientation):
    return [[COLORS[letter] for letter in row] for row in SHOWN[orientation]]


def square_centres(path, scale):
    """One pixel from the middle of each of the letters' squares."""
    rows = pixels_of(path)
    return [row[scale // 2 :: scale] for row in rows[scale // 2 :: scale]]


def sixteen_bits(*values):
    return struct.pack(f">{len(values)}H", *values)
