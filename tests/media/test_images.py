"""Images of every mode and format become the RGB pixels that a person sees. Expected pixels by hand."""

from __future__ import annotations

import math
import struct
import zlib

import pytest
from PIL import Image, ImageCms, features
from support.image_files import (
    COLORS,
    decoded_pixels,
    encoded_image,
    is_near,
    letter_picture,
    save_file,
    shown_pixels,
    sixteen_bits,
    square_centres,
)
from support.media_samples import GREY, GREY_ALPHA, PALETTE, RGBA, png, tiff

from omnicap_cli.media.images import installed_formats, to_rgb


def grey(*values):
    return [(value, value, value) for value in values]


# --- modes


def test_rgb(tmp_path):
    rows = [bytes([1, 2, 3, 4, 5, 6]), bytes([250, 251, 252, 253, 254, 255])]
    assert decoded_pixels(tmp_path, png((2, 2), rows)) == [[(1, 2, 3), (4, 5, 6)], [(250, 251, 252), (253, 254, 255)]]


def test_grey(tmp_path):
    assert decoded_pixels(tmp_path, png((3, 1), [bytes([0, 77, 255])], color_type=GREY)) == [grey(0, 77, 255)]


def test_one_bit(tmp_path):
    data = png((4, 1), [bytes([0b1010_0000])], color_type=GREY, bit_depth=1)
    assert decoded_pixels(tmp_path, data) == [grey(255, 0, 255, 0)]


@pytest.mark.parametrize(("bits", "row", "values"), [(2, 0b00_01_10_11, (0, 85, 170, 255)), (4, 0x0F, (0, 255))])
def test_few_bits_of_grey_span_black_to_white(tmp_path, bits, row, values):
    data = png((len(values), 1), [bytes([row])], color_type=GREY, bit_depth=bits)
    assert decoded_pixels(tmp_path, data) == [grey(*values)]


PALETTE_CHUNK = (b"PLTE", bytes([255, 0, 0, 0, 0, 255, 9, 8, 7]))


def test_palette(tmp_path):
    data = png((3, 1), [bytes([2, 0, 1])], color_type=PALETTE, chunks=[PALETTE_CHUNK])
    assert decoded_pixels(tmp_path, data) == [[(9, 8, 7), (255, 0, 0), (0, 0, 255)]]


def test_palette_with_transparency_over_white(tmp_path):
    # entry 0 is transparent, entry 1 is half opaque (128/255), entry 2 isn't named and so is opaque
    chunks = [PALETTE_CHUNK, (b"tRNS", bytes([0, 128]))]
    data = png((3, 1), [bytes([0, 1, 2])], color_type=PALETTE, chunks=chunks)
    # 0*128/255 + 255*127/255 = 127 of red and green; blue is 255 in both
    assert is_near(decoded_pixels(tmp_path, data), [[(255, 255, 255), (127, 127, 255), (9, 8, 7)]], 1)


def test_grey_with_alpha_over_white(tmp_path):
    data = png((3, 1), [bytes([100, 255, 100, 0, 100, 51])], color_type=GREY_ALPHA)
    # 100 * 51/255 + 255 * 204/255 = 20 + 204
    assert is_near(decoded_pixels(tmp_path, data), [grey(100, 255, 224)], 1)


def test_colours_with_alpha_over_white(tmp_path):
    row = bytes([10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 200, 102])
    data = png((3, 1), [row], color_type=RGBA)
    # alpha 102/255 = 0.4: 0 + 153, 40 + 153, 80 + 153
    assert is_near(decoded_pixels(tmp_path, data), [[(10, 20, 30), (255, 255, 255), (153, 193, 233)]], 1)


def test_transparent_grey_level_over_white(tmp_path):
    data = png((2, 1), [bytes([50, 60])], color_type=GREY, chunks=[(b"tRNS", struct.pack(">H", 50))])
    assert decoded_pixels(tmp_path, data) == [grey(255, 60)]


def test_transparent_colour_over_white(tmp_path):
    data = png((2, 1), [bytes([1, 2, 3, 4, 5, 6])], chunks=[(b"tRNS", struct.pack(">HHH", 1, 2, 3))])
    assert decoded_pixels(tmp_path, data) == [[(255, 255, 255), (4, 5, 6)]]


def test_transparent_bit_over_white(tmp_path):
    chunk = (b"tRNS", struct.pack(">H", 0))
    data = png((2, 1), [bytes([0b0100_0000])], color_type=GREY, bit_depth=1, chunks=[chunk])
    assert decoded_pixels(tmp_path, data) == [grey(255, 255)]


def test_gif_with_transparency_over_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    assert decoded_pixels(tmp_path, encoded_image(picture, "GIF", transparency=0)) == [[(255, 255, 255), (0, 0, 255)]]


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 255, 255, 0), (0, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        # 255 * (1 - 51/255) * (1 - 102/255) = 122.4 of red; 255 * 0.6 = 153 of green; 255 * 0.4 * 0.6 = 61.2 of blue
        ((51, 0, 153, 102), (122, 153, 61)),
    ],
)
def test_cmyk_jpeg(tmp_path, cmyk, rgb):
    data = encoded_image(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=100)
    assert b"Adobe" in data  # which stores its inks inverted
    assert is_near(decoded_pixels(tmp_path, data)[8][8], rgb, 3)


def test_16_bit_grey_png(tmp_path):
    data = png((4, 1), [sixteen_bits(0, 257 * 100, 32768, 65535)], color_type=GREY, bit_depth=16)
    assert decoded_pixels(tmp_path, data) == [grey(0, 100, 128, 255)]  # 32768 / 257 = 127.5


def test_dark_16_bit_grey_png_stays_dark(tmp_path):
    data = png((2, 1), [sixteen_bits(0, 200)], color_type=GREY, bit_depth=16)
    assert decoded_pixels(tmp_path, data) == [grey(0, 1)]  # 200 / 257 = 0.78


def test_16_bit_colour_png(tmp_path):
    data = png((2, 1), [sixteen_bits(0, 257 * 7, 65535, 257 * 255, 257 * 9, 0)], bit_depth=16)
    assert decoded_pixels(tmp_path, data) == [[(0, 7, 255), (255, 9, 0)]]


def test_16_bit_colour_png_with_alpha(tmp_path):
    row = sixteen_bits(257 * 10, 257 * 20, 257 * 30, 65535, 0, 0, 0, 0)
    data = png((2, 1), [row], color_type=RGBA, bit_depth=16)
    assert decoded_pixels(tmp_path, data) == [[(10, 20, 30), (255, 255, 255)]]


def test_16_bit_grey_png_with_alpha(tmp_path):
    data = png((2, 1), [sixteen_bits(257 * 10, 65535, 0, 0)], color_type=GREY_ALPHA, bit_depth=16)
    assert decoded_pixels(tmp_path, data) == [grey(10, 255)]


def test_16_bit_grey_tiff(tmp_path):
    data = tiff((3, 1), struct.pack("<3H", 0, 257 * 100, 65535), bits=(16,))
    assert decoded_pixels(tmp_path, data) == [grey(0, 100, 255)]


def test_16_bit_grey_tiff_where_white_is_zero(tmp_path):
    data = tiff((3, 1), struct.pack("<3H", 0, 257 * 100, 65535), bits=(16,), photometric=0)
    assert decoded_pixels(tmp_path, data) == [grey(255, 155, 0)]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0, 100, 255), (0, 100, 255)),  # all fit in 8 bits
        ((0, 257 * 100, 65535), (0, 100, 255)),  # the full 16 bits
        ((0, 1_000_000, 2_000_000), (0, 128, 255)),  # to the brightest: 127.5
        ((-5, 100, 255), (0, 100, 255)),  # below black is black
    ],
)
def test_32_bit_whole_numbers(tmp_path, values, shown):
    data = tiff((3, 1), struct.pack("<3i", *values), bits=(32,), sample_format=2)
    assert decoded_pixels(tmp_path, data) == [grey(*shown)]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.0, 0.5, 1.0), (0, 128, 255)),
        ((0.0, 0.2, 0.4), (0, 51, 102)),  # dark stays dark
        ((0.0, 5.0, 10.0), (0, 128, 255)),  # to the brightest
        ((-3.0, math.nan, 1.0), (0, 0, 255)),
        ((math.inf, 0.5, 1.0), (0, 128, 255)),
    ],
)
def test_floats(tmp_path, values, shown):
    data = tiff((3, 1), struct.pack("<3f", *values), bits=(32,), sample_format=3)
    assert decoded_pixels(tmp_path, data) == [grey(*shown)]


def test_lab_tiff(tmp_path):
    # CIELab of TIFF 6.0, section 23: L* of 0..255 is 0..100, a* and b* are signed bytes. Greys by the CIE's definition:
    # L* = 128/2.55 = 50.2 is Y = ((50.2 + 16) / 116)^3 = 0.186, and in sRGB 255 * (1.055 Y^(1/2.4) - 0.055) = 119
    data = tiff((3, 1), bytes([0, 0, 0, 128, 0, 0, 255, 0, 0]), bits=(8, 8, 8), photometric=8)
    assert is_near(decoded_pixels(tmp_path, data), [grey(0, 119, 255)], 2)


def test_lab_colours_have_the_right_sign(tmp_path):
    data = tiff((2, 1), bytes([128, 70, 50, 128, 256 - 60, 50]), bits=(8, 8, 8), photometric=8)
    (red, green, _), (other_red, other_green, _) = decoded_pixels(tmp_path, data)[0]
    assert red > green + 100  # a* towards red
    assert other_green > other_red + 50  # a* towards green


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("RGB", (2, 2), "white").convert("L").convert(mode) if mode == "PA" else Image.new(mode, (2, 2))
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).size == (2, 2)


# --- several frames


def frames():
    return [Image.new("RGB", (8, 8), color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame(tmp_path, format, options):
    first, *others = frames()
    data = encoded_image(first, format, save_all=True, append_images=others, **options)
    assert decoded_pixels(tmp_path, data) == [[(200, 0, 0)] * 8] * 8


def test_an_apng_whose_default_picture_is_no_frame_shows_it(tmp_path):
    first, *others = frames()
    data = encoded_image(first, "PNG", save_all=True, append_images=others, default_image=True)
    assert decoded_pixels(tmp_path, data) == [[(200, 0, 0)] * 8] * 8


# --- other formats


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "QOI", "ICO", "ICNS"])
def test_lossless_formats(tmp_path, format):
    size = (16, 16)
    data = encoded_image(
        Image.new("RGB", size, (10, 200, 30)), format, **({"sizes": [size]} if format == "ICO" else {})
    )
    assert decoded_pixels(tmp_path, data, f"picture.{format.lower()}")[0][0] == (10, 200, 30)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_jpeg_2000(tmp_path):
    assert (
        decoded_pixels(tmp_path, encoded_image(letter_picture(8), "JPEG2000", irreversible=False))[4][4] == COLORS["a"]
    )


@pytest.mark.skipif("AVIF" not in installed_formats(), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    data = encoded_image(Image.new("RGB", (64, 48), (200, 30, 60)), "AVIF", quality=95)
    assert is_near(decoded_pixels(tmp_path, data, "picture.avif"), [[(200, 30, 60)] * 64] * 48, 6)


@pytest.mark.skipif("HEIF" not in installed_formats(), reason="needs the package pillow-heif")
def test_heic(tmp_path):
    data = encoded_image(Image.new("RGB", (64, 48), (200, 30, 60)), "HEIF", quality=95)
    assert is_near(decoded_pixels(tmp_path, data, "picture.heic"), [[(200, 30, 60)] * 64] * 48, 8)


def test_an_icc_profile_changes_nothing_about_decoding(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = png((1, 1), [bytes([1, 2, 3])], chunks=[(b"iCCP", b"sRGB\0\0" + zlib.compress(profile))])
    assert decoded_pixels(tmp_path, data) == [[(1, 2, 3)]]


@pytest.mark.parametrize("profile", [b"x\0\0", b"x\0\0not deflated", b"x\0\0" + zlib.compress(b"no profile")])
def test_a_broken_icc_profile_changes_nothing(tmp_path, profile):
    assert decoded_pixels(tmp_path, png((1, 1), [bytes([1, 2, 3])], chunks=[(b"iCCP", profile)])) == [[(1, 2, 3)]]


def test_a_jpeg_with_a_broken_icc_profile(tmp_path):
    data = encoded_image(letter_picture(16), "JPEG", quality=95, subsampling=0, icc_profile=b"\0" * 100)
    assert is_near(square_centres(save_file(tmp_path, "picture.jpg", data), 16), shown_pixels(1), 6)
