"""Thumbnails of the gallery: their sizes, what they show, and what they don't tell."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from omnicap_cli.exports.gallery.gallery import make_thumbnail


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 320), (240, 160)),
        ((1000, 2000), (160, 320)),
        ((10, 20), (10, 20)),  # never enlarged
        ((100, 4000), (80, 320)),  # its first 400 rows
        ((4000, 100), (240, 60)),
        ((1, 5000), (1, 4)),
        ((1, 1), (1, 1)),
    ],
)
def test_sizes_of_thumbnails(size, expected):
    made = make_thumbnail(Image.new("RGB", size))
    assert (made.width, made.height) == expected
    with Image.open(io.BytesIO(made.webp)) as image:
        assert (image.format, image.size) == ("WEBP", expected)


def test_a_thumbnail_shows_the_picture():
    picture = Image.new("RGB", (400, 400), (200, 30, 30))
    picture.paste((30, 30, 200), (0, 200, 400, 400))
    with Image.open(io.BytesIO(make_thumbnail(picture).webp)) as image:
        for place, expected in (((120, 40), (200, 30, 30)), ((120, 200), (30, 30, 200))):
            assert all(abs(one - other) < 16 for one, other in zip(image.getpixel(place), expected, strict=True))


def test_of_a_strip_the_beginning_is_shown():
    strip = Image.new("RGB", (100, 4000), "black")
    strip.paste((255, 255, 255), (0, 0, 100, 400))
    with Image.open(io.BytesIO(make_thumbnail(strip).webp)) as image:
        assert min(image.convert("L").tobytes()) > 230


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_thumbnails_of_any_mode(mode):
    picture = Image.new(mode, (600, 300))
    before = picture.copy()
    made = make_thumbnail(picture)
    assert (made.width, made.height) == (240, 120)
    assert (picture.size, picture.tobytes()) == (before.size, before.tobytes())


def test_what_is_transparent_is_white():
    with Image.open(io.BytesIO(make_thumbnail(Image.new("RGBA", (9, 9), (255, 0, 0, 0))).webp)) as image:
        assert image.mode == "RGB"
        assert min(image.getpixel((4, 4))) > 250


def test_a_thumbnail_tells_nothing_of_where_a_picture_was_taken():
    picture = Image.new("RGB", (9, 9))
    picture.info |= {"exif": b"Exif\0\0MM\0*", "icc_profile": bytes(5000), "xmp": b"<x:xmpmeta>"}
    made = make_thumbnail(picture)
    assert len(made.webp) < 300
    with Image.open(io.BytesIO(made.webp)) as image:
        assert not {"exif", "icc_profile", "xmp"} & set(image.info)
