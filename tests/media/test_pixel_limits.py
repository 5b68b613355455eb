"""Limits of pixels hold before anything is decoded, and pictures are fitted to the bounds of a model."""

from __future__ import annotations

import math

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from support.image_files import LIMIT, encoded_image, save_file
from support.media_samples import GREY, png, solid_png

from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.errors import NotFoundError, TooLargeError, UnsupportedError
from omnicap_cli.media.decode import decode, decode_visual, probe_visual
from omnicap_cli.media.images import check_size, decode_image, fit_pixels, to_rgb

# --- the limit of pixels


def png_header(width, height):
    """A PNG that only claims its size: decoding it would fail."""
    return png((width, height), [], color_type=GREY)


@pytest.fixture
def no_decoding(monkeypatch):
    def load(*_arguments, **_options):
        raise AssertionError("decoded before the size was checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ((100, 100), 9_999),
        ((100, 100), 1),  # more than twice the limit
        ((9_500, 9_500), 90_249_999),  # over the size of which Pillow warns
        ((13_400, 13_400), 178_956_970),  # the default: 179,560,000 pixels
        ((50_000, 50_000), 178_956_970),  # over all limits
        ((50_000, 50_000), 2_499_999_999),
        ((2**31 - 1, 2**31 - 1), 178_956_970),
    ],
)
@pytest.mark.usefixtures("no_decoding")
def test_more_pixels_than_the_limit_are_refused_before_decoding(tmp_path, size, limit):
    path = save_file(tmp_path, "bomb.png", png_header(*size))
    with pytest.raises(TooLargeError, match="--max-decode-pixels"):
        decode_image(path, max_decode_pixels=limit)


@pytest.mark.parametrize("format", ["JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.usefixtures("no_decoding")
def test_the_limit_holds_for_other_formats(tmp_path, format):
    path = save_file(tmp_path, "picture", encoded_image(Image.new("RGB", (101, 100)), format))
    with pytest.raises(TooLargeError):
        decode_image(path, max_decode_pixels=10_099)


def test_at_the_limit_a_picture_is_decoded_and_so_after_raising_it(tmp_path):
    path = save_file(tmp_path, "picture.png", solid_png((1, 2, 3), (100, 100)))
    for limit, fits in ((9_999, False), (10_000, True), (3_000, False), (10_001, True)):
        if fits:
            assert decode_image(path, max_decode_pixels=limit).size == (100, 100)
        else:
            with pytest.raises(TooLargeError):
                decode_image(path, max_decode_pixels=limit)


@pytest.mark.slow
def test_a_picture_over_pillows_own_limit_is_decoded_after_raising_ours(tmp_path):
    if psutil.virtual_memory().available < 4 << 30:
        pytest.skip("needs 4 GB of free memory")
    side = 13_400  # 179,560,000 pixels: Pillow raises an error from 178,956,970 on
    row = b"\xff" * (side // 8)
    path = save_file(tmp_path, "huge.png", png((side, side), [row] * side, color_type=GREY, bit_depth=1))
    with pytest.raises(TooLargeError):
        decode_image(path, max_decode_pixels=178_956_970)
    image = decode_image(path, max_decode_pixels=side * side)
    assert image.size == (side, side)
    assert image.getpixel((side - 1, side - 1)) == (255, 255, 255)


def test_a_header_tells_the_size_of_a_picture_that_a_raised_limit_lets_in(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # what Pillow starts with
    path = save_file(tmp_path, "huge.png", png_header(15_000, 15_000))
    item = Item(id="huge", image="huge", visuals=(MediaRef(path=path),), fingerprint="")
    assert probe_visual(item.visuals[0], Settings(max_decode_pixels=300_000_000)) == (15_000, 15_000)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_at_all(width, height):
    with pytest.raises(UnsupportedError):
        check_size(width, height, max_decode_pixels=LIMIT)


# --- decode: pixels, their size before fitting, and errors known from planning


def test_decode_tells_the_size_before_fitting(tmp_path):
    path = save_file(tmp_path, "picture.png", solid_png((1, 2, 3), (100, 50)))
    item = Item(id="a", image="a", visuals=(MediaRef(path=path),), fingerprint="")
    pixels = decode(item, Settings(max_pixels=1_250))
    assert (pixels.width, pixels.height) == (100, 50)
    assert pixels.image.size == (50, 25)
    assert probe_visual(item.visuals[0], Settings(max_pixels=1_250)) == (100, 50)


def test_decode_raises_what_planning_saw():
    error = NotFoundError("gone")
    item = Item(id="a", image="a", visuals=(MediaRef(path="/nowhere"),), fingerprint="", error=error)
    with pytest.raises(NotFoundError) as caught:
        decode(item, Settings())
    assert caught.value is error


@pytest.mark.parametrize("num_visuals", [0, 2])
def test_what_reads_one_picture_refuses_items_of_none_or_several(num_visuals):
    item = Item(id="a", visuals=(MediaRef(path="a.png"),) * num_visuals, fingerprint="")
    with pytest.raises(UnsupportedError, match="this takes one"):
        decode(item, Settings())


@pytest.mark.parametrize("read", [decode_visual, probe_visual])
def test_a_clip_is_no_picture(read):
    with pytest.raises(UnsupportedError, match="video"):
        read(MediaRef(path="a.mp4", kind="video"), Settings())


# --- fit_pixels

sides = st.integers(1, 300)
bounds = st.none() | st.integers(1, 100_000)


@given(width=sides, height=sides, min_pixels=bounds, max_pixels=bounds)
@settings(max_examples=300)
def test_fit_pixels_stays_in_bounds(width, height, min_pixels, max_pixels):
    if min_pixels and max_pixels and min_pixels > max_pixels:
        min_pixels, max_pixels = max_pixels, min_pixels
    fitted = fit_pixels(Image.new("RGB", (width, height)), min_pixels=min_pixels, max_pixels=max_pixels)
    area, before = fitted.width * fitted.height, width * height
    if (min_pixels or 0) <= before <= (max_pixels or before):
        assert fitted.size == (width, height)
        return
    if max_pixels and before > max_pixels and min(fitted.size) > 1:
        assert area <= max_pixels
    if before > area:
        assert area <= before
    # the ratio is kept but for rounding to whole pixels
    target = max_pixels if max_pixels and before > max_pixels else min_pixels
    scale = math.sqrt(target / before)
    assert abs(fitted.width - width * scale) <= 1
    assert abs(fitted.height - height * scale) <= 1


@given(width=st.integers(20, 300), height=st.integers(20, 300), factor=st.floats(1.0, 40.0))
@settings(max_examples=200)
def test_fit_pixels_enlarges_to_the_least_area(width, height, factor):
    least = int(width * height * factor)
    fitted = fit_pixels(Image.new("L", (width, height)), min_pixels=least, max_pixels=None)
    assert fitted.width * fitted.height >= least


def test_fit_pixels_without_bounds_is_the_same_picture():
    image = Image.new("RGB", (7, 9))
    assert fit_pixels(image, min_pixels=None, max_pixels=None) is image


def test_fit_pixels_by_hand():
    image = Image.new("RGB", (400, 100), (9, 8, 7))
    assert fit_pixels(image, min_pixels=None, max_pixels=10_000).size == (200, 50)
    assert fit_pixels(image, min_pixels=90_000, max_pixels=None).size == (600, 150)
    assert fit_pixels(image, min_pixels=None, max_pixels=10_000).getpixel((100, 25)) == (9, 8, 7)


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000)])
def test_fit_pixels_keeps_a_line_of_pixels(size):
    fitted = fit_pixels(Image.new("RGB", size), min_pixels=None, max_pixels=10_000)
    assert min(fitted.size) == 1
    assert max(fitted.size) > 10_000


def test_rgb_pictures_are_not_copied():
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image
