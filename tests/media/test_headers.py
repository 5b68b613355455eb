"""The quick reader of sizes says what Pillow says of whole files and of limits: the judge is `images.header_size`."""

from __future__ import annotations

import itertools
import os

import pytest
from PIL import Image
from support.picture_headers import (
    FRAME,
    PLAIN,
    WITH_EXIF,
    WITHOUT_EXIF,
    assert_agrees,
    encoded_animation,
    encoded_image,
    jpeg_with_frame,
    outcome_of,
    png_header,
    png_with_header,
)
from support.picture_headers import path as path  # a fixture

from omnicap_cli.errors import AccessError, DecodeError, EmptyFileError, LinkLoopError, NotFoundError, TooLargeError
from omnicap_cli.media import headers
from omnicap_cli.media.headers import quick_size
from omnicap_cli.media.images import header_size

ORIENTATIONS = range(1, 9)
TURNED = (5, 6, 7, 8)  # EXIF 2.32, 4.6.4 A: row 0 of these is a side of what is shown


@pytest.fixture
def without_pillow(monkeypatch):
    """Fails where the quick reader asks Pillow after all."""

    def refuse(path, **options):
        raise AssertionError("it was in doubt")

    monkeypatch.setattr(headers, "header_size", refuse)


# ---------------------------------------------------------------------------------------------- what is plain


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_need_no_pillow(path, without_pillow, name):
    data, size = PLAIN[name]
    path.write_bytes(data)
    assert quick_size(str(path)) == size
    assert header_size(str(path)) == size


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_a_jpeg_needs_no_pillow(path, without_pillow, orientation):
    path.write_bytes(encoded_image("JPEG", orientation=orientation))
    size = quick_size(str(path))
    assert (size.width, size.height) == ((17, 29) if orientation in TURNED else (29, 17))


# ---------------------------------------------------------------------------------------------- every format

LONG_SIDES = [(1, 1), (1, 20_000), (20_000, 1), (2, 3), (255, 257), (4097, 3), (1000, 1)]


@pytest.mark.parametrize(("format", "orientation"), [*itertools.product(WITH_EXIF, ORIENTATIONS)])
def test_orientations_by_format(path, format, orientation):
    size = assert_agrees(path, encoded_image(format, orientation=orientation))
    assert size == ((17, 29) if orientation in TURNED else (29, 17))


@pytest.mark.parametrize("format", WITHOUT_EXIF)
def test_formats_without_orientation(path, format):
    assert assert_agrees(path, encoded_image(format)) == (29, 17)


@pytest.mark.parametrize(("format", "size"), [*itertools.product(("JPEG", "PNG", "TIFF", "GIF", "BMP"), LONG_SIDES)])
def test_long_sides(path, format, size):
    assert assert_agrees(path, encoded_image(format, size)) == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes(path, without_pillow, mode):
    path.write_bytes(encoded_image("PNG", mode=mode))
    assert quick_size(str(path)) == (29, 17)


@pytest.mark.parametrize(("format", "canvas"), [("GIF", (30, 20)), ("PNG", (30, 20)), ("TIFF", (30, 20))])
def test_animations_have_the_size_of_their_first_picture(path, format, canvas):
    assert assert_agrees(path, encoded_animation(format, [(30, 20), (30, 20), (30, 20)])) == canvas


def test_photographs(path):
    data = pytest.importorskip("skimage.data")
    for name, size in (("astronaut", (512, 512)), ("coffee", (600, 400)), ("chelsea", (451, 300))):
        image = Image.fromarray(getattr(data, name)())
        for format in ("JPEG", "PNG", "WEBP", "TIFF"):
            image.save(path, format)
            assert quick_size(str(path)) == header_size(str(path)) == size


def test_the_files_of_scikit_image():
    folder = os.path.dirname(pytest.importorskip("skimage.data").__file__)
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    assert any(name.endswith((".png", ".jpg", ".tif")) for name in names)
    for name in names:
        file = os.path.join(folder, name)
        assert outcome_of(quick_size, file) == outcome_of(header_size, file), name


# ---------------------------------------------------------------------------------------------- limits and errors


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_limit_on_pixels(path, format):
    data = encoded_image(format, (40, 50))
    assert assert_agrees(path, data, max_decode_pixels=1000) == (40, 50)  # Pillow's guard stays at twice the limit
    kind, message = assert_agrees(path, data, max_decode_pixels=999)
    assert kind is TooLargeError
    assert message.startswith("more than twice the limit of 999 pixels")


@pytest.mark.parametrize(
    "data", [png_with_header(png_header(70_000, 70_000)), jpeg_with_frame(b"\x08" + b"\xff" * 4 + FRAME[5:])]
)
def test_the_usual_limit(path, data):
    kind, message = assert_agrees(path, data)
    assert kind is TooLargeError
    assert message.startswith("more than twice the limit of 178,956,970 pixels")


def test_twice_the_limit_needs_no_pillow(path, without_pillow):
    path.write_bytes(encoded_image("JPEG", (40, 50)))
    assert quick_size(str(path), max_decode_pixels=1000) == (40, 50)


def test_files_that_cant_be_read(tmp_path):
    for name in ("loop", "gone"):
        (tmp_path / name).symlink_to({"loop": "loop", "gone": "nowhere"}[name])
    (tmp_path / "empty").touch()
    expected = {
        **{"missing": NotFoundError, "gone": NotFoundError, "loop": LinkLoopError, ".": AccessError},
        **{"empty": EmptyFileError, "nul\0": DecodeError, "x" * 300: AccessError, "empty/name": AccessError},
    }
    for name, kind in expected.items():
        said = outcome_of(quick_size, tmp_path / name)
        assert said[0] is kind
        assert said == outcome_of(header_size, tmp_path / name)


def test_urls_are_names_of_files():
    with pytest.raises(NotFoundError):
        quick_size("http://localhost:1/picture.jpg")
