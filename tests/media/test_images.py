"""Image files become the RGB pixels that a person sees, and damaged ones an ItemError. Expected pixels by hand."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import zipfile
import zlib

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageFile, features
from support.media_samples import GREY, GREY_ALPHA, PALETTE, RGBA, pdf, png, solid_png, tiff

from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    EmptyFileError,
    ItemError,
    LinkLoopError,
    NotFoundError,
    TooLargeError,
    UnsupportedError,
)
from omnicap_cli.media.decode import decode, decode_visual, probe_visual
from omnicap_cli.media.images import check_size, decode_image, fit_pixels, header_size, installed_formats, to_rgb

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


def save(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return str(path)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(path, limit=LIMIT):
    """Rows of (r, g, b), decoded."""
    image = decode_image(path, max_decode_pixels=limit)
    assert image.mode == "RGB"
    assert header_size(path) == image.size
    return [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]


def decoded(folder, data, name="picture"):
    return pixels(save(folder, name, data))


def near(rows, expected, tolerance):
    difference = np.abs(np.asarray(rows, dtype=int) - np.asarray(expected, dtype=int))
    return bool((difference <= tolerance).all())


def grey(*values):
    return [(value, value, value) for value in values]


def exif_orientation(value):
    """A minimal EXIF block: a big-endian TIFF with the one tag 0x0112, of type SHORT."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)


def letters(scale=1):
    picture = Image.new("RGB", (3, 2))
    picture.putdata([COLORS[letter] for row in STORED for letter in row])
    return picture.resize((3 * scale, 2 * scale), Image.Resampling.NEAREST)


def shown_pixels(orientation):
    return [[COLORS[letter] for letter in row] for row in SHOWN[orientation]]


def centres(path, scale):
    """One pixel from the middle of each of the letters' squares."""
    rows = pixels(path)
    return [row[scale // 2 :: scale] for row in rows[scale // 2 :: scale]]


# --- orientation


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_png(tmp_path, orientation):
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    data = png((3, 2), rows, chunks=[(b"eXIf", exif_orientation(orientation))])
    assert decoded(tmp_path, data) == shown_pixels(orientation)


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_jpeg(tmp_path, orientation):
    plain = saved(letters(16), "JPEG", quality=95, subsampling=0)
    block = b"Exif\0\0" + exif_orientation(orientation)
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]  # APP1 after SOI
    assert near(centres(save(tmp_path, "picture.jpg", data), 16), shown_pixels(orientation), 6)


@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_tiff(tmp_path, orientation):
    data = b"".join(bytes(COLORS[letter]) for row in STORED for letter in row)
    whole = tiff((3, 2), data, bits=(8, 8, 8), photometric=2, orientation=orientation)
    assert decoded(tmp_path, whole) == shown_pixels(orientation)


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_of_webp(tmp_path, orientation):
    data = saved(letters(), "WEBP", lossless=True, exif=b"Exif\0\0" + exif_orientation(orientation))
    assert decoded(tmp_path, data) == shown_pixels(orientation)


@pytest.mark.skipif("AVIF" not in installed_formats(), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_avif(tmp_path, orientation):
    data = saved(letters(16), "AVIF", quality=95, subsampling="4:4:4", exif=exif_orientation(orientation))
    assert near(centres(save(tmp_path, "picture.avif", data), 16), shown_pixels(orientation), 12)


@pytest.mark.skipif("HEIF" not in installed_formats(), reason="needs the package pillow-heif")
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_of_heic(tmp_path, orientation):
    data = saved(letters(32), "HEIF", quality=95, chroma=444, exif=exif_orientation(orientation))
    assert near(centres(save(tmp_path, "picture.heic", data), 32), shown_pixels(orientation), 16)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_outside_the_standard_is_upright(tmp_path, value):
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    data = png((3, 2), rows, chunks=[(b"eXIf", exif_orientation(value))])
    assert decoded(tmp_path, data) == shown_pixels(1)


@pytest.mark.parametrize(
    "block",
    [b"", b"MM", b"garbage, no TIFF at all", exif_orientation(6)[:11], b"MM\0\x2a\xff\xff\xff\xff", b"II*\0" * 4],
    ids=["empty", "cut", "garbage", "half an entry", "offset past the end", "offset into itself"],
)
def test_broken_exif_leaves_the_pixels(tmp_path, block):
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    assert decoded(tmp_path, png((3, 2), rows, chunks=[(b"eXIf", block)])) == shown_pixels(1)


def test_broken_exif_of_jpeg_leaves_the_pixels(tmp_path):
    plain = saved(letters(16), "JPEG", quality=95, subsampling=0)
    block = b"Exif\0\0MM\0\x2a\0\0\xff\xff"
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert near(centres(save(tmp_path, "picture.jpg", data), 16), shown_pixels(1), 6)


def test_orientation_that_is_no_number_is_upright(tmp_path):
    block = struct.pack(">2sHIHHHI4sI", b"MM", 42, 8, 1, 0x0112, 2, 2, b"6\0\0\0", 0)  # ASCII "6"
    rows = [b"".join(bytes(COLORS[letter]) for letter in row) for row in STORED]
    assert decoded(tmp_path, png((3, 2), rows, chunks=[(b"eXIf", block)])) == shown_pixels(1)


# --- modes


def test_rgb(tmp_path):
    rows = [bytes([1, 2, 3, 4, 5, 6]), bytes([250, 251, 252, 253, 254, 255])]
    assert decoded(tmp_path, png((2, 2), rows)) == [[(1, 2, 3), (4, 5, 6)], [(250, 251, 252), (253, 254, 255)]]


def test_grey(tmp_path):
    assert decoded(tmp_path, png((3, 1), [bytes([0, 77, 255])], color_type=GREY)) == [grey(0, 77, 255)]


def test_one_bit(tmp_path):
    data = png((4, 1), [bytes([0b1010_0000])], color_type=GREY, bit_depth=1)
    assert decoded(tmp_path, data) == [grey(255, 0, 255, 0)]


@pytest.mark.parametrize(("bits", "row", "values"), [(2, 0b00_01_10_11, (0, 85, 170, 255)), (4, 0x0F, (0, 255))])
def test_few_bits_of_grey_span_black_to_white(tmp_path, bits, row, values):
    data = png((len(values), 1), [bytes([row])], color_type=GREY, bit_depth=bits)
    assert decoded(tmp_path, data) == [grey(*values)]


PALETTE_CHUNK = (b"PLTE", bytes([255, 0, 0, 0, 0, 255, 9, 8, 7]))


def test_palette(tmp_path):
    data = png((3, 1), [bytes([2, 0, 1])], color_type=PALETTE, chunks=[PALETTE_CHUNK])
    assert decoded(tmp_path, data) == [[(9, 8, 7), (255, 0, 0), (0, 0, 255)]]


def test_palette_with_transparency_over_white(tmp_path):
    # entry 0 is transparent, entry 1 is half opaque (128/255), entry 2 isn't named and so is opaque
    chunks = [PALETTE_CHUNK, (b"tRNS", bytes([0, 128]))]
    data = png((3, 1), [bytes([0, 1, 2])], color_type=PALETTE, chunks=chunks)
    # 0*128/255 + 255*127/255 = 127 of red and green; blue is 255 in both
    assert near(decoded(tmp_path, data), [[(255, 255, 255), (127, 127, 255), (9, 8, 7)]], 1)


def test_grey_with_alpha_over_white(tmp_path):
    data = png((3, 1), [bytes([100, 255, 100, 0, 100, 51])], color_type=GREY_ALPHA)
    # 100 * 51/255 + 255 * 204/255 = 20 + 204
    assert near(decoded(tmp_path, data), [grey(100, 255, 224)], 1)


def test_colours_with_alpha_over_white(tmp_path):
    row = bytes([10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 200, 102])
    data = png((3, 1), [row], color_type=RGBA)
    # alpha 102/255 = 0.4: 0 + 153, 40 + 153, 80 + 153
    assert near(decoded(tmp_path, data), [[(10, 20, 30), (255, 255, 255), (153, 193, 233)]], 1)


def test_transparent_grey_level_over_white(tmp_path):
    data = png((2, 1), [bytes([50, 60])], color_type=GREY, chunks=[(b"tRNS", struct.pack(">H", 50))])
    assert decoded(tmp_path, data) == [grey(255, 60)]


def test_transparent_colour_over_white(tmp_path):
    data = png((2, 1), [bytes([1, 2, 3, 4, 5, 6])], chunks=[(b"tRNS", struct.pack(">HHH", 1, 2, 3))])
    assert decoded(tmp_path, data) == [[(255, 255, 255), (4, 5, 6)]]


def test_transparent_bit_over_white(tmp_path):
    chunk = (b"tRNS", struct.pack(">H", 0))
    data = png((2, 1), [bytes([0b0100_0000])], color_type=GREY, bit_depth=1, chunks=[chunk])
    assert decoded(tmp_path, data) == [grey(255, 255)]


def test_gif_with_transparency_over_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    assert decoded(tmp_path, saved(picture, "GIF", transparency=0)) == [[(255, 255, 255), (0, 0, 255)]]


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
    data = saved(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=100)
    assert b"Adobe" in data  # which stores its inks inverted
    assert near(decoded(tmp_path, data)[8][8], rgb, 3)


def sixteen_bits(*values):
    return struct.pack(f">{len(values)}H", *values)


def test_16_bit_grey_png(tmp_path):
    data = png((4, 1), [sixteen_bits(0, 257 * 100, 32768, 65535)], color_type=GREY, bit_depth=16)
    assert decoded(tmp_path, data) == [grey(0, 100, 128, 255)]  # 32768 / 257 = 127.5


def test_dark_16_bit_grey_png_stays_dark(tmp_path):
    data = png((2, 1), [sixteen_bits(0, 200)], color_type=GREY, bit_depth=16)
    assert decoded(tmp_path, data) == [grey(0, 1)]  # 200 / 257 = 0.78


def test_16_bit_colour_png(tmp_path):
    data = png((2, 1), [sixteen_bits(0, 257 * 7, 65535, 257 * 255, 257 * 9, 0)], bit_depth=16)
    assert decoded(tmp_path, data) == [[(0, 7, 255), (255, 9, 0)]]


def test_16_bit_colour_png_with_alpha(tmp_path):
    row = sixteen_bits(257 * 10, 257 * 20, 257 * 30, 65535, 0, 0, 0, 0)
    data = png((2, 1), [row], color_type=RGBA, bit_depth=16)
    assert decoded(tmp_path, data) == [[(10, 20, 30), (255, 255, 255)]]


def test_16_bit_grey_png_with_alpha(tmp_path):
    data = png((2, 1), [sixteen_bits(257 * 10, 65535, 0, 0)], color_type=GREY_ALPHA, bit_depth=16)
    assert decoded(tmp_path, data) == [grey(10, 255)]


def test_16_bit_grey_tiff(tmp_path):
    data = tiff((3, 1), struct.pack("<3H", 0, 257 * 100, 65535), bits=(16,))
    assert decoded(tmp_path, data) == [grey(0, 100, 255)]


def test_16_bit_grey_tiff_where_white_is_zero(tmp_path):
    data = tiff((3, 1), struct.pack("<3H", 0, 257 * 100, 65535), bits=(16,), photometric=0)
    assert decoded(tmp_path, data) == [grey(255, 155, 0)]


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
    assert decoded(tmp_path, data) == [grey(*shown)]


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
    assert decoded(tmp_path, data) == [grey(*shown)]


def test_lab_tiff(tmp_path):
    # CIELab of TIFF 6.0, section 23: L* of 0..255 is 0..100, a* and b* are signed bytes. Greys by the CIE's definition:
    # L* = 128/2.55 = 50.2 is Y = ((50.2 + 16) / 116)^3 = 0.186, and in sRGB 255 * (1.055 Y^(1/2.4) - 0.055) = 119
    data = tiff((3, 1), bytes([0, 0, 0, 128, 0, 0, 255, 0, 0]), bits=(8, 8, 8), photometric=8)
    assert near(decoded(tmp_path, data), [grey(0, 119, 255)], 2)


def test_lab_colours_have_the_right_sign(tmp_path):
    data = tiff((2, 1), bytes([128, 70, 50, 128, 256 - 60, 50]), bits=(8, 8, 8), photometric=8)
    (red, green, _), (other_red, other_green, _) = decoded(tmp_path, data)[0]
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
    data = saved(first, format, save_all=True, append_images=others, **options)
    assert decoded(tmp_path, data) == [[(200, 0, 0)] * 8] * 8


def test_an_apng_whose_default_picture_is_no_frame_shows_it(tmp_path):
    first, *others = frames()
    data = saved(first, "PNG", save_all=True, append_images=others, default_image=True)
    assert decoded(tmp_path, data) == [[(200, 0, 0)] * 8] * 8


# --- other formats


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "QOI", "ICO", "ICNS"])
def test_lossless_formats(tmp_path, format):
    size = (16, 16)
    data = saved(Image.new("RGB", size, (10, 200, 30)), format, **({"sizes": [size]} if format == "ICO" else {}))
    assert decoded(tmp_path, data, f"picture.{format.lower()}")[0][0] == (10, 200, 30)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_jpeg_2000(tmp_path):
    assert decoded(tmp_path, saved(letters(8), "JPEG2000", irreversible=False))[4][4] == COLORS["a"]


@pytest.mark.skipif("AVIF" not in installed_formats(), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    data = saved(Image.new("RGB", (64, 48), (200, 30, 60)), "AVIF", quality=95)
    assert near(decoded(tmp_path, data, "picture.avif"), [[(200, 30, 60)] * 64] * 48, 6)


@pytest.mark.skipif("HEIF" not in installed_formats(), reason="needs the package pillow-heif")
def test_heic(tmp_path):
    data = saved(Image.new("RGB", (64, 48), (200, 30, 60)), "HEIF", quality=95)
    assert near(decoded(tmp_path, data, "picture.heic"), [[(200, 30, 60)] * 64] * 48, 8)


def test_an_icc_profile_changes_nothing_about_decoding(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = png((1, 1), [bytes([1, 2, 3])], chunks=[(b"iCCP", b"sRGB\0\0" + zlib.compress(profile))])
    assert decoded(tmp_path, data) == [[(1, 2, 3)]]


@pytest.mark.parametrize("profile", [b"x\0\0", b"x\0\0not deflated", b"x\0\0" + zlib.compress(b"no profile")])
def test_a_broken_icc_profile_changes_nothing(tmp_path, profile):
    assert decoded(tmp_path, png((1, 1), [bytes([1, 2, 3])], chunks=[(b"iCCP", profile)])) == [[(1, 2, 3)]]


def test_a_jpeg_with_a_broken_icc_profile(tmp_path):
    data = saved(letters(16), "JPEG", quality=95, subsampling=0, icc_profile=b"\0" * 100)
    assert near(centres(save(tmp_path, "picture.jpg", data), 16), shown_pixels(1), 6)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["picture.eps", "picture.png", "picture.jpg"])
def test_eps_is_never_decoded(tmp_path, name, monkeypatch):
    def no_processes(*_arguments, **_options):
        raise AssertionError("nothing may be run")

    monkeypatch.setattr("subprocess.Popen", no_processes)
    path = save(tmp_path, name, EPS)
    with pytest.raises(UnsupportedError):
        decode_image(path, max_decode_pixels=LIMIT)
    with pytest.raises(UnsupportedError):
        header_size(path)


# --- what is no picture


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", EmptyFileError, "empty"),
        (b"Dear reader,\nthis is a letter.\n", UnsupportedError, "text"),
        ("日本語の手紙。".encode() * 100, UnsupportedError, "text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedError, "text"),
        (b"\0" * 4096, DecodeError, "zero bytes"),
        (pdf((100, 100)), UnsupportedError, "PDF"),
        (bytes(range(128, 256)) * 9, UnsupportedError, "not an image"),
    ],
    ids=["empty", "letter", "letter in Japanese", "SVG", "zeros", "PDF", "noise"],
)
def test_what_is_no_picture_says_what_it_is(tmp_path, data, error, words):
    path = save(tmp_path, "picture.png", data)
    for read in (header_size, lambda path: decode_image(path, max_decode_pixels=LIMIT)):
        with pytest.raises(error, match=words):
            read(path)


@pytest.mark.parametrize("name", ["pictures.png", "report.docx"])
def test_a_zip_archive_or_an_office_document_is_called_that(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("word/document.xml", "<w:document/>")
    for read in (header_size, lambda path: decode_image(path, max_decode_pixels=LIMIT)):
        with pytest.raises(UnsupportedError, match=r"zip.*office document"):
            read(str(tmp_path / name))


def test_files_that_are_not_there(tmp_path):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name, error in {
        "missing.png": NotFoundError,
        "dangling.png": NotFoundError,
        "loop.png": LinkLoopError,
        "": AccessError,
    }.items():
        with pytest.raises(error):
            decode_image(str(tmp_path / name), max_decode_pixels=LIMIT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_file_is_damaged(tmp_path, format):
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    data = saved(noise, format)
    with pytest.raises(ItemError) as caught:
        decode_image(save(tmp_path, "picture", data[: len(data) // 2]), max_decode_pixels=LIMIT)
    assert caught.value.message
    assert caught.value.kind in ("DecodeError", "UnsupportedError")


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
    path = save(tmp_path, "bomb.png", png_header(*size))
    with pytest.raises(TooLargeError, match="--max-decode-pixels"):
        decode_image(path, max_decode_pixels=limit)


@pytest.mark.parametrize("format", ["JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.usefixtures("no_decoding")
def test_the_limit_holds_for_other_formats(tmp_path, format):
    path = save(tmp_path, "picture", saved(Image.new("RGB", (101, 100)), format))
    with pytest.raises(TooLargeError):
        decode_image(path, max_decode_pixels=10_099)


def test_at_the_limit_a_picture_is_decoded_and_so_after_raising_it(tmp_path):
    path = save(tmp_path, "picture.png", solid_png((1, 2, 3), (100, 100)))
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
    path = save(tmp_path, "huge.png", png((side, side), [row] * side, color_type=GREY, bit_depth=1))
    with pytest.raises(TooLargeError):
        decode_image(path, max_decode_pixels=178_956_970)
    image = decode_image(path, max_decode_pixels=side * side)
    assert image.size == (side, side)
    assert image.getpixel((side - 1, side - 1)) == (255, 255, 255)


def test_a_header_tells_the_size_of_a_picture_that_a_raised_limit_lets_in(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # what Pillow starts with
    path = save(tmp_path, "huge.png", png_header(15_000, 15_000))
    item = Item(id="huge", image="huge", visuals=(MediaRef(path=path),), fingerprint="")
    assert probe_visual(item.visuals[0], Settings(max_decode_pixels=300_000_000)) == (15_000, 15_000)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_at_all(width, height):
    with pytest.raises(UnsupportedError):
        check_size(width, height, max_decode_pixels=LIMIT)


# --- decode: pixels, their size before fitting, and errors known from planning


def test_decode_tells_the_size_before_fitting(tmp_path):
    path = save(tmp_path, "picture.png", solid_png((1, 2, 3), (100, 50)))
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


# --- damage of every kind


def _small(format):
    picture = Image.effect_noise((24, 17), 80).convert("RGB")
    options = {"GIF": {"save_all": True, "append_images": [picture.rotate(180)]}}.get(format, {})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return saved(picture, format, **options, **({} if format == "GIF" else {"exif": exif}))


WHOLE = {format: _small(format) for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF")}
WHOLE["TIFF by hand"] = tiff((4, 4), bytes(range(48)), bits=(8, 8, 8), photometric=2, orientation=8)
WHOLE["16 bits"] = png((4, 1), [sixteen_bits(0, 1, 2, 3)], color_type=GREY, bit_depth=16)
mutations = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6)


@contextlib.contextmanager
def explained():
    """An ItemError, if any, with a message; nothing else may be raised."""
    try:
        yield
    except ItemError as error:
        if not error.message:
            raise


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "picture"


@pytest.mark.parametrize("format", WHOLE)
@given(cut=st.none() | st.integers(0, 4000), changes=mutations, at_the_start=st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_gives_pixels_or_an_item_error(scratch, format, cut, changes, at_the_start):
    data = bytearray(WHOLE[format][: None if cut is None else cut % len(WHOLE[format])])
    for place, value in changes:
        if data:
            data[place % min(len(data), 64 if at_the_start else len(data))] = value
    scratch.write_bytes(data)
    size = None
    with explained():
        size = header_size(str(scratch))
    with explained():
        image = decode_image(str(scratch), max_decode_pixels=LIMIT)
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= LIMIT
        assert size == image.size


@pytest.mark.parametrize("format", WHOLE)
def test_the_undamaged_files_of_the_damage_test_are_read(scratch, format):
    scratch.write_bytes(WHOLE[format])
    image = decode_image(str(scratch), max_decode_pixels=LIMIT)
    assert header_size(str(scratch)) == image.size
    assert image.size == {"GIF": (24, 17), "TIFF by hand": (4, 4), "16 bits": (4, 1)}.get(format, (17, 24))


def test_rgb_pictures_are_not_copied():
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image
