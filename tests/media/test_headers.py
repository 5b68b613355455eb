"""The quick reader of sizes says what Pillow says, of sizes and of errors alike: the judge is `images.header_size`."""

from __future__ import annotations

import io
import itertools
import os
import random
import struct
import zlib

import psutil
import pytest
from PIL import ExifTags, Image, ImageCms, features
from support.media_samples import GREY, PALETTE, RGB, RGBA, png, solid_png

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
from omnicap_cli.media import headers
from omnicap_cli.media.headers import quick_size
from omnicap_cli.media.images import header_size

ORIENTATIONS = range(1, 9)
TURNED = (5, 6, 7, 8)  # EXIF 2.32, 4.6.4 A: row 0 of these is a side of what is shown
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'
PHOTOSHOP = b"Photoshop 3.0\0"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture"


@pytest.fixture
def without_pillow(monkeypatch):
    """Fails where the quick reader asks Pillow after all."""

    def refuse(path, **options):
        raise AssertionError("it was in doubt")

    monkeypatch.setattr(headers, "header_size", refuse)


def outcome(read, path, **options):
    try:
        return tuple(read(str(path), **options))
    except ItemError as error:
        return type(error), error.message


def assert_agrees(path, data, **options):
    path.write_bytes(data)
    judged = outcome(header_size, path, **options)
    assert outcome(quick_size, path, **options) == judged
    return judged


# ---------------------------------------------------------------------------------------------- files by hand


def saved(format, size=(29, 17), *, mode="RGB", orientation=None, **options):
    buffer = io.BytesIO()
    image = Image.radial_gradient("L").resize(size).convert(mode)
    if orientation:
        options["exif"] = exif_of(orientation).tobytes()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a maker of cameras"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.XResolution] = 300.0
    exif[ExifTags.Base.ResolutionUnit] = 2
    return exif


def tags(*entries, order="<", num_tags=None, at=8, far=b""):
    """EXIF of one directory (TIFF 6.0, section 2); an entry is (tag, type, count, four bytes)."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    directory = struct.pack(order + "H", len(entries) if num_tags is None else num_tags)
    for tag, kind, count, value in entries:
        directory += struct.pack(order + "HHI", tag, kind, count) + value
    return mark + struct.pack(order + "I", at) + b"\0" * (at - 8) + directory + b"\0\0\0\0" + far


def turned(order="<", value=6):
    return (0x112, 3, 1, struct.pack(order + "HH", value, 0))


def jpeg_parts(data):
    """(kind, content) of each segment in front of the pixels (ITU-T T.81, B.1.1.4), and the rest."""
    parts, at = [], 2
    while data[at + 1] != 0xDA:
        (num_bytes,) = struct.unpack_from(">H", data, at + 2)
        parts.append((data[at + 1], data[at + 4 : at + 2 + num_bytes]))
        at += 2 + num_bytes
    return parts, data[at:]


def jpeg_of(parts, rest):
    segments = (b"\xff%c" % kind + struct.pack(">H", len(content) + 2) + content for kind, content in parts)
    return b"\xff\xd8" + b"".join(segments) + rest


def jpeg(*first, last=(), size=(29, 17)):
    """A JPEG with more segments in front of its own and behind them."""
    parts, rest = jpeg_parts(saved("JPEG", size))
    return jpeg_of([*first, *parts, *last], rest)


def jpeg_with_frame(content, kind=0xC0):
    parts, rest = jpeg_parts(saved("JPEG"))
    return jpeg_of([(kind, content) if number == 0xC0 else (number, body) for number, body in parts], rest)


def exif_segment(*entries, **options):
    return 0xE1, b"Exif\0\0" + tags(*entries, **options)


def png_parts(data):
    """(name, content) of each chunk (PNG specification, 5.3), as far as they are whole."""
    parts, at = [], 8
    while at < len(data):
        num_bytes, name = struct.unpack_from(">I4s", data, at)
        parts.append((name, data[at + 8 : at + 8 + num_bytes]))
        at += 12 + num_bytes
    return parts


def png_of(parts):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def late(*chunks, data=None):
    """A PNG of 4 by 3 with chunks behind its pixels."""
    parts = png_parts(data or solid_png())
    return png_of([*parts[:-1], *chunks, parts[-1]])


def early(*chunks, color_type=RGB, bit_depth=8):
    row = {RGB: b"\1\2\3" * 4, RGBA: b"\1\2\3\4" * 4, GREY: b"\1\2\3\4", PALETTE: b"\0\0\0\0"}[color_type]
    return png((4, 3), [row] * 3, chunks=chunks, color_type=color_type, bit_depth=bit_depth)


def header(width=4, height=3, depth=8, color_type=2, compression=0, filters=0, interlace=0):
    return struct.pack(">IIBBBBB", width, height, depth, color_type, compression, filters, interlace)


def png_with_header(content):
    return png_of([(b"IHDR", content), *png_parts(solid_png())[1:]])


def animated(format, sizes):
    buffer = io.BytesIO()
    first, *others = [Image.new("RGB", size, (60 * number, 9, 9)) for number, size in enumerate(sizes)]
    first.save(buffer, format, save_all=True, append_images=others)
    return buffer.getvalue()


def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


RAW_PROFILE = b"\nexif\n26\n" + tags(turned()).hex().encode()
BOMB = zlib.compress(b"\0" * ((1 << 20) + 1))  # a byte more than Pillow unpacks of a profile or a text

# ---------------------------------------------------------------------------------------------- what is plain

PLAIN = {
    "JPEG": (jpeg(), (29, 17)),
    "progressive JPEG": (saved("JPEG", progressive=True), (29, 17)),
    "grey JPEG": (saved("JPEG", mode="L"), (29, 17)),
    "CMYK JPEG": (saved("JPEG", mode="CMYK"), (29, 17)),
    "a large colour profile": (saved("JPEG", icc_profile=profile() + bytes(9000)), (29, 17)),
    "a comment": (saved("JPEG", comment=b"\xff\xc0 no frame"), (29, 17)),
    "XMP without orientation": (jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")), (29, 17)),
    "EXIF that overrules XMP": (jpeg((0xE1, XMP), exif_segment(turned(value=1))), (29, 17)),
    "Photoshop": (jpeg((0xED, PHOTOSHOP + b"8BIM\x04\x04\0\0\0\0\0\2ab")), (29, 17)),
    "big-endian EXIF": (jpeg(exif_segment(turned(">"), order=">")), (17, 29)),
    "EXIF behind the frame": (jpeg(last=[exif_segment(turned())]), (17, 29)),
    "EXIF of no orientation": (jpeg(exif_segment((0x10F, 2, 4, b"abc\0"))), (29, 17)),
    "EXIF of no tags": (jpeg(exif_segment()), (29, 17)),
    "several pictures": (saved("MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]), (29, 17)),
    "a thumbnail": (jpeg((0xE1, b"Exif\0\0" + tags(turned(), far=saved("JPEG", (160, 120)) * 5))), (17, 29)),
    "a directory far back": (jpeg(exif_segment(turned(), at=5000)), (17, 29)),
    "PNG": (solid_png(), (4, 3)),
    "a long PNG": (saved("PNG", (700, 500), compress_level=0), (700, 500)),
    "palette": (early((b"PLTE", bytes(6)), (b"tRNS", b"\0"), color_type=PALETTE), (4, 3)),
    "transparent colour": (early((b"tRNS", bytes(6))), (4, 3)),
    "chunks of no matter": (early((b"gAMA", bytes(4)), (b"cHRM", bytes(32)), (b"bKGD", b""), (b"tIME", b"x")), (4, 3)),
    "PNG with a profile": (saved("PNG", icc_profile=profile() + bytes(9000)), (29, 17)),
    "a profile that can't be unpacked": (early((b"iCCP", b"name\0\0not packed")), (4, 3)),
    "text": (early((b"tEXt", b"Software\0a program")), (4, 3)),
    "late text": (late((b"tEXt", b"date:create\0today"), (b"iTXt", b""), (b"zTXt", b"x")), (4, 3)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_need_no_pillow(path, without_pillow, name):
    data, size = PLAIN[name]
    path.write_bytes(data)
    assert quick_size(str(path)) == size
    assert header_size(str(path)) == size


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_a_jpeg_needs_no_pillow(path, without_pillow, orientation):
    path.write_bytes(saved("JPEG", orientation=orientation))
    size = quick_size(str(path))
    assert (size.width, size.height) == ((17, 29) if orientation in TURNED else (29, 17))


# ---------------------------------------------------------------------------------------------- every format

WITH_EXIF = ["JPEG", "PNG", "TIFF", "MPO", *(name.upper() for name in ("webp", "avif") if features.check(name))]
WITHOUT_EXIF = ["GIF", "BMP", "DIB", "PPM", "TGA", "PCX", "SGI", "QOI"] + ["JPEG2000"] * features.check("jpg_2000")
LONG_SIDES = [(1, 1), (1, 20_000), (20_000, 1), (2, 3), (255, 257), (4097, 3), (1000, 1)]


@pytest.mark.parametrize(("format", "orientation"), [*itertools.product(WITH_EXIF, ORIENTATIONS)])
def test_orientations_by_format(path, format, orientation):
    size = assert_agrees(path, saved(format, orientation=orientation))
    assert size == ((17, 29) if orientation in TURNED else (29, 17))


@pytest.mark.parametrize("format", WITHOUT_EXIF)
def test_formats_without_orientation(path, format):
    assert assert_agrees(path, saved(format)) == (29, 17)


@pytest.mark.parametrize(("format", "size"), [*itertools.product(("JPEG", "PNG", "TIFF", "GIF", "BMP"), LONG_SIDES)])
def test_long_sides(path, format, size):
    assert assert_agrees(path, saved(format, size)) == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes(path, without_pillow, mode):
    path.write_bytes(saved("PNG", mode=mode))
    assert quick_size(str(path)) == (29, 17)


@pytest.mark.parametrize(("format", "canvas"), [("GIF", (30, 20)), ("PNG", (30, 20)), ("TIFF", (30, 20))])
def test_animations_have_the_size_of_their_first_picture(path, format, canvas):
    assert assert_agrees(path, animated(format, [(30, 20), (30, 20), (30, 20)])) == canvas


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
        assert outcome(quick_size, file) == outcome(header_size, file), name


# ---------------------------------------------------------------------------------------------- what is odd

FRAME = bytes.fromhex("080011001d03012200021101031101")  # 8 bits, 17 by 29, three layers
TINY_FRAME = b"\x08\0\1\0\1" + FRAME[5:]
TINY_SEGMENT = b"\xff\xc0\0\x11" + TINY_FRAME


def jpeg_with_bytes(data):
    """A JPEG with something behind its segments and in front of its pixels."""
    parts, rest = jpeg_parts(saved("JPEG"))
    return jpeg_of(parts, data + rest)


ODD = {
    "12 bits": jpeg_with_frame(b"\x0c" + FRAME[1:], 0xC1),
    "lossless": jpeg_with_frame(FRAME, 0xC3),
    "arithmetic coding": jpeg_with_frame(FRAME, 0xC9),
    "hierarchical": jpeg(last=[(0xDE, TINY_FRAME)]),
    "a reserved kind of frame": jpeg(last=[(0xC8, TINY_FRAME)]),
    "a frame behind a restart": jpeg_with_bytes(b"\xff\xd0\0\x15" + TINY_SEGMENT),
    "a frame in junk": jpeg_with_bytes(b"\0\xfe\0\x15" + TINY_SEGMENT),
    "two frames": jpeg(last=[(0xC0, TINY_FRAME)]),
    "no height": jpeg_with_frame(FRAME[:1] + b"\0\0" + FRAME[3:]),
    "no width": jpeg_with_frame(FRAME[:3] + b"\0\0" + FRAME[5:]),
    "two layers": jpeg_with_frame(FRAME[:5] + b"\2" + FRAME[6:12]),
    "an incomplete layer": jpeg_with_frame(FRAME[:-1]),
    "layers left out": jpeg_with_frame(FRAME[:6]),
    "a short frame": jpeg_with_frame(FRAME[:3]),
    "a frame that goes on in a comment": jpeg((0xC0, b"\x08\0\1"), (0xFE, bytes(0x300))),
    "an empty frame": jpeg_with_frame(b""),
    "no frame": jpeg_of([], jpeg_parts(saved("JPEG"))[1]),
    "a short table": jpeg((0xDB, bytes(64))),
    "a table of words": jpeg((0xDB, b"\x10" + bytes(128))),
    "a short table of words": jpeg((0xDB, b"\x10" + bytes(64))),
    "an empty table": jpeg((0xDB, b"")),
    "junk between segments": saved("JPEG")[:20] + b"junk" + saved("JPEG")[20:],
    "filled segments": saved("JPEG")[:20] + b"\xff\xff" + saved("JPEG")[20:],
    "a length of nothing": saved("JPEG")[:20] + b"\xff\xfe\0\0" + saved("JPEG")[20:],
    "a restart": saved("JPEG")[:20] + b"\xff\xd0" + saved("JPEG")[20:],
    "the end first": saved("JPEG")[:20] + b"\xff\xd9" + saved("JPEG")[20:],
    "a short JFIF": jpeg((0xE0, b"JFIF")),
    "a short Adobe": jpeg((0xEE, b"Adobe\0")),
    "a short profile": jpeg((0xE2, b"ICC_PROFILE\0\1")),
    "another short profile": jpeg((0xE2, b"ICC_PROFILE\0\1\1abc"), (0xE2, b"ICC_PROFILE\0")),
    "Photoshop that breaks off": jpeg((0xED, PHOTOSHOP + b"8BIM\x04\x04")),
    "Photoshop that breaks off later": jpeg((0xED, PHOTOSHOP + b"8BIM\x04\x04\0")),
    "a list of pictures that breaks off": jpeg((0xE2, b"MPF\0II*\0\x08\0\0\0")),
    "a list of pictures that is none": jpeg((0xE2, b"MPF\0")),
    "a list of two pictures, and none": jpeg((0xE2, b"MPF\0" + tags((0xB001, 4, 1, b"\2\0\0\0")))),
    "a list of pictures in letters": jpeg((0xE2, b"MPF\0" + tags((0xB001, 2, 2, b"2\0\0\0")))),
    "a list of half a picture": jpeg((0xE2, b"MPF\0" + tags((0xB001, 11, 1, b"\0\0\0\x3f"), (0xB002, 7, 4, b"abcd")))),
    "XMP orientation": jpeg((0xE1, XMP)),
    "XMP orientation, EXIF without": jpeg((0xE1, XMP), exif_segment()),
    "two EXIF": jpeg(exif_segment(turned()), exif_segment(turned(value=1))),
    "two halves of EXIF": jpeg((0xE1, exif_segment(turned())[1][:20]), (0xE1, b"Exif\0\0" + tags(turned())[14:])),
    "EXIF marked twice": jpeg((0xE1, b"Exif\0\0Exif\0\0" + tags(turned()))),
    "empty EXIF": jpeg((0xE1, b"Exif\0\0")),
    "EXIF of another order": jpeg((0xE1, b"Exif\0\0II\0*" + tags(turned())[4:])),
    "EXIF as BigTIFF": jpeg((0xE1, b"Exif\0\0II+\0" + tags(turned())[4:])),
    "EXIF that is none": jpeg((0xE1, b"Exif\0\0" + bytes(40))),
    "EXIF with its directory outside": jpeg((0xE1, b"Exif\0\0II*\0\xff\xff\0\0" + tags(turned())[8:])),
    "EXIF with too many tags": jpeg(exif_segment(turned(), num_tags=40)),
    "EXIF that ends in a tag": jpeg((0xE1, exif_segment(turned(), turned(value=1))[1][:-9])),
    "EXIF that ends behind a tag": jpeg((0xE1, exif_segment(turned(), num_tags=2)[1][:-4])),
    "an orientation of 0 in front of another": jpeg(exif_segment(turned(value=0), turned())),
    "two orientations": jpeg(exif_segment(turned(value=1), turned())),
    "an orientation of 9": jpeg(exif_segment(turned(value=9))),
    "a long orientation": jpeg(exif_segment((0x112, 4, 1, struct.pack("<I", 6)))),
    "two values": jpeg(exif_segment((0x112, 3, 2, struct.pack("<HH", 6, 1)))),
    "no value": jpeg(exif_segment((0x112, 3, 0, struct.pack("<HH", 6, 1)))),
    "an orientation in letters": jpeg(exif_segment((0x112, 2, 2, b"6\0\0\0"))),
    "an orientation of unknown type": jpeg(exif_segment((0x112, 99, 1, struct.pack("<HH", 6, 0)))),
    "a tag outside in front": jpeg(exif_segment((0x10F, 2, 5, struct.pack("<I", 60_000)), turned())),
    "a tag that ends just outside in front": jpeg(exif_segment((0x10F, 2, 5, struct.pack("<I", 34)), turned())),
    "a tag of another type outside in front": jpeg(exif_segment((0x14A, 13, 2, struct.pack("<I", 60_000)), turned())),
    "a tag larger than all in front": jpeg(exif_segment((0x10F, 2, 60_000, struct.pack("<I", 8)), turned())),
    "tags larger than all together": jpeg(
        exif_segment(*[(tag, 2, 30, struct.pack("<I", 8)) for tag in range(3)], turned())
    ),
    "a resolution in letters": jpeg(exif_segment(turned(), (0x11A, 2, 2, b"a\0\0\0"), (0x128, 3, 1, b"\2\0\0\0"))),
    "an empty resolution": jpeg(exif_segment(turned(), (0x11A, 2, 1, b"\0\0\0\0"), (0x128, 3, 1, b"\2\0\0\0"))),
    "a wrong checksum of IHDR": solid_png()[:29] + b"\0\0\0\0" + solid_png()[33:],
    "a wrong checksum of text": early((b"tEXt", b"a\0b"))[:45] + b"\0\0\0\0" + early((b"tEXt", b"a\0b"))[49:],
    "a wrong checksum of the pixels": solid_png()[:-16] + b"\0\0\0\0" + solid_png()[-12:],
    "IHDR too long": png_with_header(header() + b"\0"),
    "IHDR too short": png_with_header(header()[:-1]),
    "no IHDR": png_of(png_parts(solid_png())[1:]),
    "another chunk first": png_of([(b"gAMA", bytes(4)), *png_parts(solid_png())]),
    "two IHDR": png_of([(b"IHDR", header(9, 9)), *png_parts(solid_png())]),
    "no width of a PNG": png_with_header(header(0)),
    "no height of a PNG": png_with_header(header(4, 0)),
    "3 bits": png_with_header(header(depth=3)),
    "3 bits of grey": png_with_header(header(depth=3, color_type=0)),
    "colours of 4 bits": png_with_header(header(depth=4)),
    "an unknown colour type": png_with_header(header(color_type=5)),
    "an unknown compression": png_with_header(header(compression=1)),
    "an unknown filter": png_with_header(header(filters=1)),
    "an unknown interlace": png_with_header(header(interlace=9)),
    "huge": png_with_header(header(1 << 31, 1 << 31)),
    "pixels of length 0": png_of([(b"IHDR", header()), (b"IDAT", b""), (b"IEND", b"")]),
    "no pixels": png_of([(b"IHDR", header()), (b"IEND", b"")]),
    "no end": png_of([(b"IHDR", header())]),
    "eXIf": early((b"eXIf", tags(turned()))),
    "late eXIf": late((b"eXIf", tags(turned()))),
    "late eXIf behind text": late((b"tEXt", b"a\0b"), (b"eXIf", tags(turned()))),
    "late eXIf of a long PNG": late((b"eXIf", tags(turned())), data=saved("PNG", (700, 500), compress_level=0)),
    "eXIf that is none": early((b"eXIf", b"none")),
    "text of EXIF": early((b"tEXt", b"exif\0" + tags(turned()))),
    "late text of EXIF": late((b"tEXt", b"exif\0" + tags(turned()))),
    "raw profile": early((b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE)),
    "late raw profile": late((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE))),
    "XMP in a PNG": early((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "late XMP in a PNG": late((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "XMP by its short name": early((b"tEXt", b"xmp\0" + XMP)),
    "a bomb in a text": early((b"zTXt", b"a\0\0" + BOMB)),
    "a bomb in an international text": early((b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "a bomb in a profile": early((b"iCCP", b"a\0\0" + BOMB)),
    "a profile packed in another way": early((b"iCCP", b"a\0\1" + BOMB)),
    "a profile packed in another way, and broken": early((b"iCCP", b"a\0\1not packed")),
    "a profile without a name": early((b"iCCP", b"\0\0" + zlib.compress(b"a"))),
    "a profile without content": early((b"iCCP", b"a\0")),
    "nothing but a name": early((b"iCCP", b"a")),
    "a short gAMA": early((b"gAMA", bytes(3))),
    "a short cHRM": early((b"cHRM", bytes(31))),
    "a short sRGB": early((b"sRGB", b"")),
    "a short pHYs": early((b"pHYs", bytes(8))),
    "a short tRNS": early((b"tRNS", bytes(5))),
    "a short tRNS of a grey PNG": early((b"tRNS", bytes(1)), color_type=GREY),
    "a name of no chunk": early((b"a-b!", b"")),
    "an unknown chunk": early((b"abCd", b"content")),
    "animation of no pictures": early((b"acTL", bytes(8))),
    "an animation that breaks off": early((b"acTL", b"\0\0\0\2")),
    "a frame of a wrong place": early((b"fcTL", struct.pack(">IIIII6x", 0, 9, 9, 9, 9))),
    "a bottom-up BMP": saved("BMP")[:22] + struct.pack("<i", -17) + saved("BMP")[26:],
    "a BMP of OS/2": b"BM" + struct.pack("<IIIIHHHH", 38, 0, 26, 12, 2, 2, 1, 24) + bytes(16),
    "an ICO": saved("ICO"),
    "a GIF with a larger picture": saved("GIF")[:6] + struct.pack("<HH", 5, 5) + saved("GIF")[10:],
    "an animated WebP": animated("WEBP", [(30, 20), (30, 20)]),
    "nothing": b"",
    "zeros": bytes(600),
    "text for a picture": b"no picture",
}
SIGNATURES = [b"\xff\xd8\xff", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"II*\0"]


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_judged_by_pillow(path, name):
    assert_agrees(path, ODD[name])


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("rest", [b"", b"\0", b"\xff" * 40, bytes(40)])
def test_signatures_and_little_else(path, signature, rest):
    assert_agrees(path, signature + rest)


@pytest.mark.parametrize("name", ["JPEG", "big-endian EXIF", "a thumbnail", "PNG with a profile", "late text"])
def test_files_that_break_off(path, name):
    data = PLAIN[name][0]
    for num_bytes in {*range(min(len(data), 700)), *range(4090, 4100), *range(len(data) - 80, len(data))}:
        assert_agrees(path, data[:num_bytes])


# ---------------------------------------------------------------------------------------------- limits and errors


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_limit_on_pixels(path, format):
    data = saved(format, (40, 50))
    assert assert_agrees(path, data, max_decode_pixels=1000) == (40, 50)  # Pillow's guard stays at twice the limit
    kind, message = assert_agrees(path, data, max_decode_pixels=999)
    assert kind is TooLargeError
    assert message.startswith("more than twice the limit of 999 pixels")


@pytest.mark.parametrize(
    "data", [png_with_header(header(70_000, 70_000)), jpeg_with_frame(b"\x08" + b"\xff" * 4 + FRAME[5:])]
)
def test_the_usual_limit(path, data):
    kind, message = assert_agrees(path, data)
    assert kind is TooLargeError
    assert message.startswith("more than twice the limit of 178,956,970 pixels")


def test_twice_the_limit_needs_no_pillow(path, without_pillow):
    path.write_bytes(saved("JPEG", (40, 50)))
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
        said = outcome(quick_size, tmp_path / name)
        assert said[0] is kind
        assert said == outcome(header_size, tmp_path / name)


def test_urls_are_names_of_files():
    with pytest.raises(NotFoundError):
        quick_size("http://localhost:1/picture.jpg")


def test_kinds_of_damage(path):
    assert assert_agrees(path, ODD["a wrong checksum of IHDR"])[0] is UnsupportedError
    assert assert_agrees(path, jpeg()[:200])[0] is DecodeError
    assert assert_agrees(path, ODD["text for a picture"])[0] is UnsupportedError


def test_files_are_closed(path):
    before = psutil.Process().num_fds()
    for data in (jpeg(), solid_png(), b"", jpeg()[:200], ODD["late eXIf"]):
        assert_agrees(path, data)
    assert psutil.Process().num_fds() == before


# ---------------------------------------------------------------------------------------------- damage by chance

WHOLE = {
    **{name: PLAIN[name][0] for name in ("JPEG", "progressive JPEG", "CMYK JPEG", "Photoshop", "big-endian EXIF")},
    **{name: PLAIN[name][0] for name in ("PNG", "palette", "chunks of no matter", "text", "late text")},
    "EXIF as Pillow writes it": saved("JPEG", orientation=6),
    "a JPEG of all": jpeg((0xE1, XMP), exif_segment(turned()), (0xE2, b"ICC_PROFILE\0\1\1" + profile()[:40])),
    "a PNG with a profile": saved("PNG", icc_profile=profile()),
    "a PNG with EXIF": saved("PNG", orientation=6),
    "an animated PNG": animated("PNG", [(30, 20), (30, 20)]),
    "several pictures": PLAIN["several pictures"][0],
    **{format: saved(format) for format in WITHOUT_EXIF},
    **{format: saved(format, orientation=6) for format in ("WEBP", "TIFF") if format in WITH_EXIF},
    "GIF that moves": animated("GIF", [(30, 20), (30, 20)]),
}


def damaged(data, chance):
    """Some bytes changed, left out or put in, mostly in the first 2,000."""
    data = bytearray(data)
    at = chance.randrange(min(len(data), chance.choice((64, 2000))))
    way = chance.randrange(4)
    if way == 0:
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(at, min(len(data), 2000))] ^= 1 << chance.randrange(8)
    elif way == 1:
        del data[at:]
    elif way == 2:
        data[at:at] = chance.randbytes(chance.randint(1, 20))
    else:
        del data[at : at + chance.randint(1, 20)]
    return bytes(data)


def rearranged(parts, chance):
    """Parts changed one by one, doubled, left out or in another order; whoever joins them makes their frames right."""
    parts = list(parts)
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        name, content = parts[at]
        way = chance.randrange(6)
        if way == 0:
            parts[at], parts[other] = parts[other], parts[at]
        elif way == 1:
            parts.insert(other, parts[at])
        elif way == 2 and len(parts) > 1:
            del parts[at]
        elif way == 3:
            parts[at] = name, content[: chance.randrange(len(content) + 1)]
        elif way == 4:
            parts[at] = parts[other][0], content
        elif content:
            parts[at] = name, damaged(content, chance)
    return parts


def mutation(data, chance):
    if chance.random() < 0.5:
        return damaged(data, chance)
    if data.startswith(b"\xff\xd8"):
        parts, rest = jpeg_parts(data)
        return jpeg_of(rearranged(parts, chance), rest)
    return png_of(rearranged(png_parts(data), chance)) if data.startswith(b"\x89PNG") else damaged(data, chance)


@pytest.mark.parametrize("name", WHOLE)
def test_damage_is_judged_as_pillow_does(path, name):
    chance = random.Random(name)
    judged = [assert_agrees(path, mutation(WHOLE[name], chance)) for _ in range(150)]
    assert len(set(judged)) > 1
