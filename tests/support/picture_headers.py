"""Pictures with headers of every kind, by hand from their formats, and the quick reader held against Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import ExifTags, Image, ImageCms, features
from support.media_samples import GREY, PALETTE, RGB, RGBA, png, solid_png

from omnicap_cli.errors import ItemError
from omnicap_cli.media.headers import quick_size
from omnicap_cli.media.images import header_size

XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'
PHOTOSHOP = b"Photoshop 3.0\0"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture"


def outcome_of(read, path, **options):
    try:
        return tuple(read(str(path), **options))
    except ItemError as error:
        return type(error), error.message


def assert_agrees(path, data, **options):
    path.write_bytes(data)
    judged = outcome_of(header_size, path, **options)
    assert outcome_of(quick_size, path, **options) == judged
    return judged


# ---------------------------------------------------------------------------------------------- files by hand


def encoded_image(format, size=(29, 17), *, mode="RGB", orientation=None, **options):
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


def exif_tags(*entries, order="<", num_tags=None, at=8, far=b""):
    """EXIF of one directory (TIFF 6.0, section 2); an entry is (tag, type, count, four bytes)."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    directory = struct.pack(order + "H", len(entries) if num_tags is None else num_tags)
    for tag, kind, count, value in entries:
        directory += struct.pack(order + "HHI", tag, kind, count) + value
    return mark + struct.pack(order + "I", at) + b"\0" * (at - 8) + directory + b"\0\0\0\0" + far


def orientation_tag(order="<", value=6):
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
    parts, rest = jpeg_parts(encoded_image("JPEG", size))
    return jpeg_of([*first, *parts, *last], rest)


def jpeg_with_frame(content, kind=0xC0):
    parts, rest = jpeg_parts(encoded_image("JPEG"))
    return jpeg_of([(kind, content) if number == 0xC0 else (number, body) for number, body in parts], rest)


def exif_segment(*entries, **options):
    return 0xE1, b"Exif\0\0" + exif_tags(*entries, **options)


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


def png_with_late(*chunks, data=None):
    """A PNG of 4 by 3 with chunks behind its pixels."""
    parts = png_parts(data or solid_png())
    return png_of([*parts[:-1], *chunks, parts[-1]])


def png_with_early(*chunks, color_type=RGB, bit_depth=8):
    row = {RGB: b"\1\2\3" * 4, RGBA: b"\1\2\3\4" * 4, GREY: b"\1\2\3\4", PALETTE: b"\0\0\0\0"}[color_type]
    return png((4, 3), [row] * 3, chunks=chunks, color_type=color_type, bit_depth=bit_depth)


def png_header(width=4, height=3, depth=8, color_type=2, compression=0, filters=0, interlace=0):
    return struct.pack(">IIBBBBB", width, height, depth, color_type, compression, filters, interlace)


def png_with_header(content):
    return png_of([(b"IHDR", content), *png_parts(solid_png())[1:]])


def encoded_animation(format, sizes):
    buffer = io.BytesIO()
    first, *others = [Image.new("RGB", size, (60 * number, 9, 9)) for number, size in enumerate(sizes)]
    first.save(buffer, format, save_all=True, append_images=others)
    return buffer.getvalue()


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


PLAIN = {
    "JPEG": (jpeg(), (29, 17)),
    "progressive JPEG": (encoded_image("JPEG", progressive=True), (29, 17)),
    "grey JPEG": (encoded_image("JPEG", mode="L"), (29, 17)),
    "CMYK JPEG": (encoded_image("JPEG", mode="CMYK"), (29, 17)),
    "a large colour profile": (encoded_image("JPEG", icc_profile=srgb_profile() + bytes(9000)), (29, 17)),
    "a comment": (encoded_image("JPEG", comment=b"\xff\xc0 no frame"), (29, 17)),
    "XMP without orientation": (jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")), (29, 17)),
    "EXIF that overrules XMP": (jpeg((0xE1, XMP), exif_segment(orientation_tag(value=1))), (29, 17)),
    "Photoshop": (jpeg((0xED, PHOTOSHOP + b"8BIM\x04\x04\0\0\0\0\0\2ab")), (29, 17)),
    "big-endian EXIF": (jpeg(exif_segment(orientation_tag(">"), order=">")), (17, 29)),
    "EXIF behind the frame": (jpeg(last=[exif_segment(orientation_tag())]), (17, 29)),
    "EXIF of no orientation": (jpeg(exif_segment((0x10F, 2, 4, b"abc\0"))), (29, 17)),
    "EXIF of no tags": (jpeg(exif_segment()), (29, 17)),
    "several pictures": (encoded_image("MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]), (29, 17)),
    "a thumbnail": (
        jpeg((0xE1, b"Exif\0\0" + exif_tags(orientation_tag(), far=encoded_image("JPEG", (160, 120)) * 5))),
        (17, 29),
    ),
    "a directory far back": (jpeg(exif_segment(orientation_tag(), at=5000)), (17, 29)),
    "PNG": (solid_png(), (4, 3)),
    "a long PNG": (encoded_image("PNG", (700, 500), compress_level=0), (700, 500)),
    "palette": (png_with_early((b"PLTE", bytes(6)), (b"tRNS", b"\0"), color_type=PALETTE), (4, 3)),
    "transparent colour": (png_with_early((b"tRNS", bytes(6))), (4, 3)),
    "chunks of no matter": (
        png_with_early((b"gAMA", bytes(4)), (b"cHRM", bytes(32)), (b"bKGD", b""), (b"tIME", b"x")),
        (4, 3),
    ),
    "PNG with a profile": (encoded_image("PNG", icc_profile=srgb_profile() + bytes(9000)), (29, 17)),
    "a profile that can't be unpacked": (png_with_early((b"iCCP", b"name\0\0not packed")), (4, 3)),
    "text": (png_with_early((b"tEXt", b"Software\0a program")), (4, 3)),
    "late text": (png_with_late((b"tEXt", b"date:create\0today"), (b"iTXt", b""), (b"zTXt", b"x")), (4, 3)),
}


WITH_EXIF = ["JPEG", "PNG", "TIFF", "MPO", *(name.upper() for name in ("webp", "avif") if features.check(name))]
WITHOUT_EXIF = ["GIF", "BMP", "DIB", "PPM", "TGA", "PCX", "SGI", "QOI"] + ["JPEG2000"] * features.check("jpg_2000")


FRAME = bytes.fromhex("080011001d03012200021101031101")  # 8 bits, 17 by 29, three layers
