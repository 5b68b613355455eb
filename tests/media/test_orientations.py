"""Images that their EXIF turns or mirrors are decoded upright. Expected pixels by hand."""

from __future__ import annotations

import struct

import pytest
from support.image_files import (
    COLORS,
    SHOWN,
    STORED,
    decoded_pixels,
    encoded_image,
    is_near,
    letter_picture,
    save_file,
    shown_pixels,
    square_centres,
)
from support.media_samples import png, tiff

from omnicap_cli.media.images import installed_formats


def exif_orientation(value):
    """A minimal EXIF block: a big-endian TIFF with the one tag 0x0112, of type SHORT."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_png(tmp_path, orientation):
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    data = png((3, 2), rows, chunks=[(b"eXIf", exif_orientation(orientation))])
    assert decoded_pixels(tmp_path, data) == shown_pixels(orientation)


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_jpeg(tmp_path, orientation):
    plain = encoded_image(letter_picture(16), "JPEG", quality=95, subsampling=0)
    block = b"Exif\0\0" + exif_orientation(orientation)
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]  # APP1 after SOI
    assert is_near(square_centres(save_file(tmp_path, "picture.jpg", data), 16), shown_pixels(orientation), 6)


@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_tiff(tmp_path, orientation):
    data = b"".join(bytes(COLORS[letter]) for row in STORED for letter in row)
    whole = tiff((3, 2), data, bits=(8, 8, 8), photometric=2, orientation=orientation)
    assert decoded_pixels(tmp_path, whole) == shown_pixels(orientation)


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_webp(tmp_path, orientation):
    data = encoded_image(letter_picture(), "WEBP", lossless=True, exif=b"Exif\0\0" + exif_orientation(orientation))
    assert decoded_pixels(tmp_path, data) == shown_pixels(orientation)


@pytest.mark.skipif("AVIF" not in installed_formats(), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_avif(tmp_path, orientation):
    data = encoded_image(
        letter_picture(16), "AVIF", quality=95, subsampling="4:4:4", exif=exif_orientation(orientation)
    )
    assert is_near(square_centres(save_file(tmp_path, "picture.avif", data), 16), shown_pixels(orientation), 12)


@pytest.mark.skipif("HEIF" not in installed_formats(), reason="needs the package pillow-heif")
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_heic(tmp_path, orientation):
    data = encoded_image(letter_picture(32), "HEIF", quality=95, chroma=444, exif=exif_orientation(orientation))
    assert is_near(square_centres(save_file(tmp_path, "picture.heic", data), 32), shown_pixels(orientation), 16)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_outside_the_standard_is_upright(tmp_path, value):
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    data = png((3, 2), rows, chunks=[(b"eXIf", exif_orientation(value))])
    assert decoded_pixels(tmp_path, data) == shown_pixels(1)


@pytest.mark.parametrize(
    "block",
    [b"", b"MM", b"garbage, no TIFF at all", exif_orientation(6)[:11], b"MM\0\x2a\xff\xff\xff\xff", b"II*\0" * 4],
    ids=["empty", "cut", "garbage", "half an entry", "offset past the end", "offset into itself"],
)
def test_broken_exif_leaves_the_pixels(tmp_path, block):
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    assert decoded_pixels(tmp_path, png((3, 2), rows, chunks=[(b"eXIf", block)])) == shown_pixels(1)


def test_broken_exif_of_jpeg_leaves_the_pixels(tmp_path):
    plain = encoded_image(letter_picture(16), "JPEG", quality=95, subsampling=0)
    block = b"Exif\0\0MM\0\x2a\0\0\xff\xff"
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert is_near(square_centres(save_file(tmp_path, "picture.jpg", data), 16), shown_pixels(1), 6)


def test_orientation_that_is_no_number_is_upright(tmp_path):
    block = struct.pack(">2sHIHHHI4sI", b"MM", 42, 8, 1, 0x0112, 2, 2, b"6\0\0\0", 0)  # ASCII "6"
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    assert decoded_pixels(tmp_path, png((3, 2), rows, chunks=[(b"eXIf", block)])) == shown_pixels(1)
