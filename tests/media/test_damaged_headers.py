"""The quick reader of sizes says what Pillow says of odd and damaged files: the judge is `images.header_size`."""

from __future__ import annotations

import random
import struct
import zlib

import psutil
import pytest
from support.media_samples import GREY, solid_png
from support.picture_headers import (
    FRAME,
    PHOTOSHOP,
    PLAIN,
    WITH_EXIF,
    WITHOUT_EXIF,
    XMP,
    assert_agrees,
    encoded_animation,
    encoded_image,
    exif_segment,
    exif_tags,
    jpeg,
    jpeg_of,
    jpeg_parts,
    jpeg_with_frame,
    orientation_tag,
    png_header,
    png_of,
    png_parts,
    png_with_early,
    png_with_header,
    png_with_late,
    srgb_profile,
)
from support.picture_headers import path as path  # a fixture

from omnicap_cli.errors import DecodeError, UnsupportedError

RAW_PROFILE = b"\nexif\n26\n" + exif_tags(orientation_tag()).hex().encode()
BOMB = zlib.compress(b"\0" * ((1 << 20) + 1))  # a byte more than Pillow unpacks of a profile or a text


# ---------------------------------------------------------------------------------------------- what is odd

TINY_FRAME = b"\x08\0\1\0\1" + FRAME[5:]
TINY_SEGMENT = b"\xff\xc0\0\x11" + TINY_FRAME


def jpeg_with_bytes(data):
    """A JPEG with something behind its segments and in front of its pixels."""
    parts, rest = jpeg_parts(encoded_image("JPEG"))
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
    "no frame": jpeg_of([], jpeg_parts(encoded_image("JPEG"))[1]),
    "a short table": jpeg((0xDB, bytes(64))),
    "a table of words": jpeg((0xDB, b"\x10" + bytes(128))),
    "a short table of words": jpeg((0xDB, b"\x10" + bytes(64))),
    "an empty table": jpeg((0xDB, b"")),
    "junk between segments": encoded_image("JPEG")[:20] + b"junk" + encoded_image("JPEG")[20:],
    "filled segments": encoded_image("JPEG")[:20] + b"\xff\xff" + encoded_image("JPEG")[20:],
    "a length of nothing": encoded_image("JPEG")[:20] + b"\xff\xfe\0\0" + encoded_image("JPEG")[20:],
    "a restart": encoded_image("JPEG")[:20] + b"\xff\xd0" + encoded_image("JPEG")[20:],
    "the end first": encoded_image("JPEG")[:20] + b"\xff\xd9" + encoded_image("JPEG")[20:],
    "a short JFIF": jpeg((0xE0, b"JFIF")),
    "a short Adobe": jpeg((0xEE, b"Adobe\0")),
    "a short profile": jpeg((0xE2, b"ICC_PROFILE\0\1")),
    "another short profile": jpeg((0xE2, b"ICC_PROFILE\0\1\1abc"), (0xE2, b"ICC_PROFILE\0")),
    "Photoshop that breaks off": jpeg((0xED, PHOTOSHOP + b"8BIM\x04\x04")),
    "Photoshop that breaks off later": jpeg((0xED, PHOTOSHOP + b"8BIM\x04\x04\0")),
    "a list of pictures that breaks off": jpeg((0xE2, b"MPF\0II*\0\x08\0\0\0")),
    "a list of pictures that is none": jpeg((0xE2, b"MPF\0")),
    "a list of two pictures, and none": jpeg((0xE2, b"MPF\0" + exif_tags((0xB001, 4, 1, b"\2\0\0\0")))),
    "a list of pictures in letters": jpeg((0xE2, b"MPF\0" + exif_tags((0xB001, 2, 2, b"2\0\0\0")))),
    "a list of half a picture": jpeg(
        (0xE2, b"MPF\0" + exif_tags((0xB001, 11, 1, b"\0\0\0\x3f"), (0xB002, 7, 4, b"abcd")))
    ),
    "XMP orientation": jpeg((0xE1, XMP)),
    "XMP orientation, EXIF without": jpeg((0xE1, XMP), exif_segment()),
    "two EXIF": jpeg(exif_segment(orientation_tag()), exif_segment(orientation_tag(value=1))),
    "two halves of EXIF": jpeg(
        (0xE1, exif_segment(orientation_tag())[1][:20]), (0xE1, b"Exif\0\0" + exif_tags(orientation_tag())[14:])
    ),
    "EXIF marked twice": jpeg((0xE1, b"Exif\0\0Exif\0\0" + exif_tags(orientation_tag()))),
    "empty EXIF": jpeg((0xE1, b"Exif\0\0")),
    "EXIF of another order": jpeg((0xE1, b"Exif\0\0II\0*" + exif_tags(orientation_tag())[4:])),
    "EXIF as BigTIFF": jpeg((0xE1, b"Exif\0\0II+\0" + exif_tags(orientation_tag())[4:])),
    "EXIF that is none": jpeg((0xE1, b"Exif\0\0" + bytes(40))),
    "EXIF with its directory outside": jpeg((0xE1, b"Exif\0\0II*\0\xff\xff\0\0" + exif_tags(orientation_tag())[8:])),
    "EXIF with too many tags": jpeg(exif_segment(orientation_tag(), num_tags=40)),
    "EXIF that ends in a tag": jpeg((0xE1, exif_segment(orientation_tag(), orientation_tag(value=1))[1][:-9])),
    "EXIF that ends behind a tag": jpeg((0xE1, exif_segment(orientation_tag(), num_tags=2)[1][:-4])),
    "an orientation of 0 in front of another": jpeg(exif_segment(orientation_tag(value=0), orientation_tag())),
    "two orientations": jpeg(exif_segment(orientation_tag(value=1), orientation_tag())),
    "an orientation of 9": jpeg(exif_segment(orientation_tag(value=9))),
    "a long orientation": jpeg(exif_segment((0x112, 4, 1, struct.pack("<I", 6)))),
    "two values": jpeg(exif_segment((0x112, 3, 2, struct.pack("<HH", 6, 1)))),
    "no value": jpeg(exif_segment((0x112, 3, 0, struct.pack("<HH", 6, 1)))),
    "an orientation in letters": jpeg(exif_segment((0x112, 2, 2, b"6\0\0\0"))),
    "an orientation of unknown type": jpeg(exif_segment((0x112, 99, 1, struct.pack("<HH", 6, 0)))),
    "a tag outside in front": jpeg(exif_segment((0x10F, 2, 5, struct.pack("<I", 60_000)), orientation_tag())),
    "a tag that ends just outside in front": jpeg(
        exif_segment((0x10F, 2, 5, struct.pack("<I", 34)), orientation_tag())
    ),
    "a tag of another type outside in front": jpeg(
        exif_segment((0x14A, 13, 2, struct.pack("<I", 60_000)), orientation_tag())
    ),
    "a tag larger than all in front": jpeg(exif_segment((0x10F, 2, 60_000, struct.pack("<I", 8)), orientation_tag())),
    "tags larger than all together": jpeg(
        exif_segment(*[(tag, 2, 30, struct.pack("<I", 8)) for tag in range(3)], orientation_tag())
    ),
    "a resolution in letters": jpeg(
        exif_segment(orientation_tag(), (0x11A, 2, 2, b"a\0\0\0"), (0x128, 3, 1, b"\2\0\0\0"))
    ),
    "an empty resolution": jpeg(
        exif_segment(orientation_tag(), (0x11A, 2, 1, b"\0\0\0\0"), (0x128, 3, 1, b"\2\0\0\0"))
    ),
    "a wrong checksum of IHDR": solid_png()[:29] + b"\0\0\0\0" + solid_png()[33:],
    "a wrong checksum of text": png_with_early((b"tEXt", b"a\0b"))[:45]
    + b"\0\0\0\0"
    + png_with_early((b"tEXt", b"a\0b"))[49:],
    "a wrong checksum of the pixels": solid_png()[:-16] + b"\0\0\0\0" + solid_png()[-12:],
    "IHDR too long": png_with_header(png_header() + b"\0"),
    "IHDR too short": png_with_header(png_header()[:-1]),
    "no IHDR": png_of(png_parts(solid_png())[1:]),
    "another chunk first": png_of([(b"gAMA", bytes(4)), *png_parts(solid_png())]),
    "two IHDR": png_of([(b"IHDR", png_header(9, 9)), *png_parts(solid_png())]),
    "no width of a PNG": png_with_header(png_header(0)),
    "no height of a PNG": png_with_header(png_header(4, 0)),
    "3 bits": png_with_header(png_header(depth=3)),
    "3 bits of grey": png_with_header(png_header(depth=3, color_type=0)),
    "colours of 4 bits": png_with_header(png_header(depth=4)),
    "an unknown colour type": png_with_header(png_header(color_type=5)),
    "an unknown compression": png_with_header(png_header(compression=1)),
    "an unknown filter": png_with_header(png_header(filters=1)),
    "an unknown interlace": png_with_header(png_header(interlace=9)),
    "huge": png_with_header(png_header(1 << 31, 1 << 31)),
    "pixels of length 0": png_of([(b"IHDR", png_header()), (b"IDAT", b""), (b"IEND", b"")]),
    "no pixels": png_of([(b"IHDR", png_header()), (b"IEND", b"")]),
    "no end": png_of([(b"IHDR", png_header())]),
    "eXIf": png_with_early((b"eXIf", exif_tags(orientation_tag()))),
    "late eXIf": png_with_late((b"eXIf", exif_tags(orientation_tag()))),
    "late eXIf behind text": png_with_late((b"tEXt", b"a\0b"), (b"eXIf", exif_tags(orientation_tag()))),
    "late eXIf of a long PNG": png_with_late(
        (b"eXIf", exif_tags(orientation_tag())), data=encoded_image("PNG", (700, 500), compress_level=0)
    ),
    "eXIf that is none": png_with_early((b"eXIf", b"none")),
    "text of EXIF": png_with_early((b"tEXt", b"exif\0" + exif_tags(orientation_tag()))),
    "late text of EXIF": png_with_late((b"tEXt", b"exif\0" + exif_tags(orientation_tag()))),
    "raw profile": png_with_early((b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE)),
    "late raw profile": png_with_late((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE))),
    "XMP in a PNG": png_with_early((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "late XMP in a PNG": png_with_late((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "XMP by its short name": png_with_early((b"tEXt", b"xmp\0" + XMP)),
    "a bomb in a text": png_with_early((b"zTXt", b"a\0\0" + BOMB)),
    "a bomb in an international text": png_with_early((b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "a bomb in a profile": png_with_early((b"iCCP", b"a\0\0" + BOMB)),
    "a profile packed in another way": png_with_early((b"iCCP", b"a\0\1" + BOMB)),
    "a profile packed in another way, and broken": png_with_early((b"iCCP", b"a\0\1not packed")),
    "a profile without a name": png_with_early((b"iCCP", b"\0\0" + zlib.compress(b"a"))),
    "a profile without content": png_with_early((b"iCCP", b"a\0")),
    "nothing but a name": png_with_early((b"iCCP", b"a")),
    "a short gAMA": png_with_early((b"gAMA", bytes(3))),
    "a short cHRM": png_with_early((b"cHRM", bytes(31))),
    "a short sRGB": png_with_early((b"sRGB", b"")),
    "a short pHYs": png_with_early((b"pHYs", bytes(8))),
    "a short tRNS": png_with_early((b"tRNS", bytes(5))),
    "a short tRNS of a grey PNG": png_with_early((b"tRNS", bytes(1)), color_type=GREY),
    "a name of no chunk": png_with_early((b"a-b!", b"")),
    "an unknown chunk": png_with_early((b"abCd", b"content")),
    "animation of no pictures": png_with_early((b"acTL", bytes(8))),
    "an animation that breaks off": png_with_early((b"acTL", b"\0\0\0\2")),
    "a frame of a wrong place": png_with_early((b"fcTL", struct.pack(">IIIII6x", 0, 9, 9, 9, 9))),
    "a bottom-up BMP": encoded_image("BMP")[:22] + struct.pack("<i", -17) + encoded_image("BMP")[26:],
    "a BMP of OS/2": b"BM" + struct.pack("<IIIIHHHH", 38, 0, 26, 12, 2, 2, 1, 24) + bytes(16),
    "an ICO": encoded_image("ICO"),
    "a GIF with a larger picture": encoded_image("GIF")[:6] + struct.pack("<HH", 5, 5) + encoded_image("GIF")[10:],
    "an animated WebP": encoded_animation("WEBP", [(30, 20), (30, 20)]),
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
    "EXIF as Pillow writes it": encoded_image("JPEG", orientation=6),
    "a JPEG of all": jpeg(
        (0xE1, XMP), exif_segment(orientation_tag()), (0xE2, b"ICC_PROFILE\0\1\1" + srgb_profile()[:40])
    ),
    "a PNG with a profile": encoded_image("PNG", icc_profile=srgb_profile()),
    "a PNG with EXIF": encoded_image("PNG", orientation=6),
    "an animated PNG": encoded_animation("PNG", [(30, 20), (30, 20)]),
    "several pictures": PLAIN["several pictures"][0],
    **{format: encoded_image(format) for format in WITHOUT_EXIF},
    **{format: encoded_image(format, orientation=6) for format in ("WEBP", "TIFF") if format in WITH_EXIF},
    "GIF that moves": encoded_animation("GIF", [(30, 20), (30, 20)]),
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
