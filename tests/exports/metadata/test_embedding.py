"""Where packets stand in files. Frames are worked out by hand from the formats' specifications, pixels by Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.xmp_samples import HUMAN, frames_of, note, other_metadata, packet_of, picture, png_chunk, samples, saved

from omnicap_cli.exports.metadata.containers.file_parts import NotEmbeddableError
from omnicap_cli.exports.metadata.embedding import rewrite_packet
from omnicap_cli.exports.metadata.xmp import embed

ADDED = b"<?xpacket?>"  # not XMP: what a packet says is not the container's business; an odd number of bytes
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
GIF_MAGIC = bytes([1, *range(255, -1, -1), 0])


def put(content, packet=ADDED):
    """`content` with `packet`, and the packet that it had."""
    found = []
    return rewrite_packet(content, lambda old: (found.append(old), packet)[1]), *found


def refused(content):
    with pytest.raises(NotEmbeddableError):
        put(content)
    assert embed(content, [note()]) is None
    return True


# ---------------------------------------------------------------------------------------------- every format


@pytest.mark.parametrize("name", sorted(samples()))
def test_pixels_and_other_metadata_stay(name):
    before = samples()[name]
    after = embed(before, [note("a caption")])
    assert frames_of(before)
    assert frames_of(after) == frames_of(before)
    assert other_metadata(after) == other_metadata(before)
    assert "a caption" in packet_of(after)


@pytest.mark.parametrize("name", sorted(name for name in samples() if "everything" in name))
def test_old_packet_is_handed_over_and_replaced(name):
    after, found = put(samples()[name])
    assert found == HUMAN
    assert packet_of(after).encode() == ADDED
    assert b"Titel" not in after or name.startswith("tiff")  # whose old bytes stay, unused
    assert put(after, HUMAN)[1] == ADDED


@pytest.mark.parametrize(
    "name", sorted(name for name in samples() if "everything" not in name and "packet" not in name)
)
def test_file_without_packet_gets_one(name):
    after, found = put(samples()[name])
    assert found == b""
    assert put(after, HUMAN)[1] == ADDED
    assert put(put(after, HUMAN)[0])[0] == after


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"GIF89a",
        b"RIFF",
        b"II*\0",
        b"a text",
        b"%PDF-1.7\n",
        b"II+\0\x08\0\0\0",  # BigTIFF
        b"RIFF\x04\0\0\0WAVE",
        saved(picture(), "BMP"),
        saved(picture(), "JPEG2000"),
        saved(picture(), "PPM"),
    ],
)
def test_other_formats_take_none(content):
    assert refused(content)


@pytest.mark.parametrize("name", sorted(samples()))
def test_signed_file_is_left_alone(name):
    assert refused(samples()[name] + b"\0\0jumdc2as\0c2pa.assertions\0")


@pytest.mark.parametrize("name", sorted(name for name in samples() if name.startswith(("png", "webp", "gif"))))
def test_file_that_is_cut_off_is_refused(name):
    for end in range(len(samples()[name])):
        assert embed(samples()[name][:end], [note()]) is None


@pytest.mark.parametrize("name", sorted(name for name in samples() if name.startswith(("jpeg", "tiff"))))
def test_cut_that_only_a_decoder_can_see_does_no_further_harm(name):
    for end in range(0, len(samples()[name]), 11):
        cut = samples()[name][:end]
        after = embed(cut, [note()])
        before = frames_of(cut)
        assert after is None or before is None or frames_of(after) == before


mutations = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=6)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "gif", "tiff"])
@given(data=st.data())
@settings(max_examples=120)
def test_damaged_file_decodes_as_before(format, data):
    names = sorted(name for name in samples() if name.startswith(format))
    content = bytearray(samples()[data.draw(st.sampled_from(names))])
    if data.draw(st.booleans()):
        content = bytearray(embed(bytes(content), [note()]))
    within = data.draw(st.sampled_from([64, 1024, len(content)]))
    for place, value, how in data.draw(mutations):
        place %= min(len(content), within)
        content[place : place + (how > 0)] = [value] * (how < 2)  # put in, put in place of another, take out
    damaged = bytes(content)
    after = embed(damaged, [note()])
    if after is not None:
        before = frames_of(damaged)
        assert before is None or frames_of(after) == before
        assert embed(after, [note()]) == after


# ---------------------------------------------------------------------------------------------- JPEG


def segments(content):
    """(marker, body) of each segment before the compressed pixels, and all from those on."""
    found, place = [], 2
    while content[place + 1] != 0xDA:
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        found.append((content[place + 1], content[place + 4 : place + 2 + length]))
        place += 2 + length
    return found, content[place:]


def jpeg(*parts, rest=None):
    """A JPEG with the segments (marker, body) before those of a plain one."""
    plain, pixels = segments(samples()["jpeg"])
    found = [struct.pack(">BBH", 0xFF, kind, 2 + len(body)) + body for kind, body in (*parts, *plain[1:])]
    return b"\xff\xd8" + b"".join(found) + (pixels if rest is None else rest)


JFIF = (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
EXIF = (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
ICC = (0xE2, b"ICC_PROFILE\0\1\1" + bytes(128))
COMMENT = (0xFE, b"a comment")
EXTENDED = (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40 + b"<x/>")
PACKET = (0xE1, JPEG_XMP + HUMAN)
NEW = (0xE1, JPEG_XMP + ADDED)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [NEW]),
        ([JFIF], [JFIF, NEW]),
        ([EXIF], [EXIF, NEW]),
        ([JFIF, EXIF, ICC, COMMENT], [JFIF, EXIF, NEW, ICC, COMMENT]),
        ([JFIF, COMMENT, EXIF, ICC], [JFIF, COMMENT, EXIF, NEW, ICC]),
        ([JFIF, PACKET, EXTENDED, EXIF], [JFIF, NEW, EXTENDED, EXIF]),
        ([EXIF, ICC, EXTENDED, PACKET, COMMENT], [EXIF, ICC, EXTENDED, NEW, COMMENT]),
        ([JFIF, EXTENDED], [JFIF, NEW, EXTENDED]),
        ([JFIF, (0xE2, JPEG_XMP)], [JFIF, NEW, (0xE2, JPEG_XMP)]),  # the name in a segment of another kind
    ],
)
def test_jpeg_segment_stands_after_jfif_and_exif(before, after):
    assert put(jpeg(*before))[0] == jpeg(*after)


def test_jpeg_keeps_fill_bytes_and_what_follows_the_picture():
    content = jpeg(JFIF, COMMENT).replace(b"\xff\xfe", b"\xff\xff\xff\xfe") + b"\xff\xd8 a film"
    after, _ = put(content)
    assert after == jpeg(JFIF, NEW, COMMENT).replace(b"\xff\xfe", b"\xff\xff\xff\xfe") + b"\xff\xd8 a film"


def test_jpeg_segment_holds_65502_bytes():
    after, _ = put(samples()["jpeg"], b" " * 65_502)
    assert after[20:24] == b"\xff\xe1\xff\xfd"  # 2 of the length itself, 29 of the name, 65,502
    assert frames_of(after) == frames_of(samples()["jpeg"])
    with pytest.raises(NotEmbeddableError):
        put(samples()["jpeg"], b" " * 65_503)


def test_caption_too_long_for_a_jpeg_fits_elsewhere():
    notes = [note("汉" * 60_000)]
    assert embed(samples()["jpeg"], notes) is None
    for name in ("png", "webp", "gif", "tiff"):
        after = embed(samples()[name], notes)
        assert frames_of(after) == frames_of(samples()[name])
        assert packet_of(after).count("汉" * 60_000) == 3


@pytest.mark.parametrize(
    "content",
    [
        jpeg(JFIF, PACKET, PACKET),
        jpeg(JFIF, rest=b"\xff\xd9"),  # no picture
        jpeg(JFIF, rest=b"\xff\xda"),
        jpeg(JFIF, rest=b"\xff\xda\0\x0c"),
        jpeg(JFIF, rest=b"\xff\xe5\0\x01\xff\xda\0\2\xff\xd9"),  # shorter than its length itself
        jpeg(JFIF, rest=b"\0\xff\xda\0\2\xff\xd9"),  # something between the segments
        jpeg(JFIF, rest=b"\xff\xff"),
        *[
            jpeg(JFIF, rest=bytes((0xFF, marker, 0, 2)) + b"\xff\xda\0\2\xff\xd9")
            for marker in (0, 1, 0xD0, 0xD8, 0xD9)
        ],
    ],
)
def test_malformed_jpeg_is_refused(content):
    assert refused(content)


def mp_index(order, *pictures):
    """The index of a multi-picture file, CIPA DC-007 5.2: a TIFF directory with one entry, the list of `pictures`."""
    directory = struct.pack(order + "HHHII", 1, 0xB002, 7, 16 * len(pictures), 26) + bytes(4)
    listed = b"".join(struct.pack(order + "IIIHH", 0x30000, size, offset, 0, 0) for size, offset in pictures)
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return 0xE2, b"MPF\0" + mark + struct.pack(order + "I", 8) + directory + listed


@pytest.mark.parametrize("order", ["<", ">"])
def test_index_of_several_pictures_counts_the_packet(order):
    grown = 2 + 2 + 29 + 11  # marker, length, name, packet
    before = jpeg(JFIF, mp_index(order, (900, 0), (500, 4000)))
    assert put(before)[0] == jpeg(JFIF, NEW, mp_index(order, (900 + grown, 0), (500, 4000)))
    behind = jpeg(mp_index(order, (900, 0), (500, 4000), (7, 4500)), EXIF)
    moved = mp_index(order, (900 + grown, 0), (500, 4000 + grown), (7, 4500 + grown))
    assert put(behind)[0] == jpeg(moved, EXIF, NEW)
    lost = len(HUMAN) - 11
    replaced = jpeg(mp_index(order, (900, 0), (500, 4000)), PACKET)
    assert put(replaced)[0] == jpeg(mp_index(order, (900 - lost, 0), (500, 4000 - lost)), NEW)


def test_pictures_behind_a_longer_packet_are_found():
    plain = samples()["jpeg of several"]
    with Image.open(io.BytesIO(plain)) as image:
        place = plain.index(b"MPF\0") - 4
        length = int.from_bytes(plain[place + 2 : place + 4], "big") + 2
        assert image.n_frames == 3
    index, rest = plain[place : place + length], plain[2:place] + plain[place + length :]
    behind = b"\xff\xd8" + with_offsets(index, place - 2) + rest  # the index as the very first segment
    assert frames_of(behind) == frames_of(plain)
    after = embed(behind, [note()])
    assert frames_of(after) == frames_of(plain)
    assert after.index(JPEG_XMP) > after.index(b"MPF\0")


def with_offsets(index, added):
    """Pillow's index with what its offsets count from `added` bytes nearer to the start."""
    patched = bytearray(index)
    with_list = struct.pack("<HH", 0xB002, 7)
    _, num_bytes, listed = struct.unpack_from("<III", index, index.index(with_list))
    for place in range(8 + listed, 8 + listed + num_bytes, 16):
        offset = int.from_bytes(index[place + 8 : place + 12], "little")
        patched[place + 8 : place + 12] = (offset + added if offset else 0).to_bytes(4, "little")
    return bytes(patched)


@pytest.mark.parametrize(
    "body",
    [
        b"MPF\0",
        b"MPF\0XX*\0\x08\0\0\0\0\0",
        mp_index("<", (900, 0))[1][:-1],  # the list goes past the end
        mp_index("<", (2**32 - 1, 0))[1],
        mp_index(">", (900, 0))[1].replace(b"\0\0\0\x10", b"\0\0\0\x09"),
    ],
)
def test_malformed_index_of_pictures_is_refused(body):
    assert refused(jpeg(JFIF, (0xE2, body)))


# ---------------------------------------------------------------------------------------------- PNG


def chunks(content):
    """(kind, body) of each chunk, their checksums checked."""
    found, place = [], 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        body = content[place + 8 : place + 8 + length]
        assert png_chunk(kind, body) == content[place : place + 12 + length]
        found.append((kind, body))
        place += 12 + length
    return found


def png(*parts):
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


IHDR, IDAT, IEND = chunks(samples()["png"])
TEXT = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + ADDED)
OLD = (b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0XMP\0" + HUMAN)
OTHER = (b"iTXt", b"Comment\0\0\0\0\0XML:com.adobe.xmp\0\0\0\0\0")


@pytest.mark.parametrize("name", sorted(name for name in samples() if name.startswith("png")))
def test_png_chunk_stands_after_the_header_and_all_others_as_before(name):
    before = chunks(samples()[name])
    others = [chunk for chunk in before if not chunk[1].startswith(b"XML:com.adobe.xmp\0")]
    assert chunks(put(samples()[name])[0]) == [before[0], TEXT, *others[1:]]


@pytest.mark.parametrize("parts", [(OLD, OTHER, IDAT), (OTHER, OLD, IDAT), (OTHER, IDAT, OLD)])
def test_png_chunk_is_replaced_wherever_it_stands(parts):
    after, found = put(png(IHDR, *parts, IEND) + b"behind")
    assert found == HUMAN
    assert after == png(IHDR, TEXT, *[part for part in parts if part != OLD], IEND) + b"behind"


def test_png_packet_that_is_compressed_is_read():
    old = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(HUMAN))
    after, found = put(png(IHDR, old, IDAT, IEND))
    assert found == HUMAN
    assert after == png(IHDR, TEXT, IDAT, IEND)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0",
        b"\0\0\0",
        b"\2\0\0\0" + zlib.compress(HUMAN),
        b"\1\1\0\0" + zlib.compress(HUMAN),
        b"\1\0\0\0" + HUMAN,
        b"\1\0\0\0" + zlib.compress(HUMAN)[:-9],
        b"\1\0\0\0" + zlib.compress(bytes(64 << 20)),  # a bomb
    ],
)
def test_png_packet_that_cannot_be_read_is_refused(body):
    assert refused(png(IHDR, (b"iTXt", b"XML:com.adobe.xmp\0" + body), IDAT, IEND))


@pytest.mark.parametrize(
    "content",
    [
        png(IHDR, OLD, OLD, IDAT, IEND),
        png(IHDR, IDAT),
        png(IHDR, IEND),
        png(IDAT, IEND),
        png((b"CgBI", b"\x50\0\x20\x02"), IHDR, IDAT, IEND),
        png((b"IHDR", b"\0" * 12), IDAT, IEND),
        png((b"IDAT", b"\0" * 13), IHDR, IEND),
        png(IHDR, IDAT, IEND)[:-1],
    ],
)
def test_malformed_png_is_refused(content):
    assert refused(content)


# ---------------------------------------------------------------------------------------------- WebP


def webp(*parts, behind=b""):
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body + behind


def riff(content):
    found, place = [], 12
    while place < 8 + int.from_bytes(content[4:8], "little"):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        found.append((content[place : place + 4], content[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return found


def extended(flags, width=37, height=23):
    return b"VP8X", bytes([flags, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0])


@pytest.mark.parametrize(("name", "flags"), [("webp", 4), ("webp lossless", 4), ("webp lossless alpha", 0x14)])
def test_simple_webp_is_extended(name, flags):
    before = riff(samples()[name])
    assert len(before) == 1
    assert put(samples()[name])[0] == webp(extended(flags), *before, (b"XMP ", ADDED))


@pytest.mark.parametrize("lossless", [False, True])
def test_canvas_of_a_large_webp(lossless):
    after, _ = put(saved(Image.new("RGB", (16_383, 3)), "WEBP", lossless=lossless))
    assert after[12:30] == b"VP8X\x0a\0\0\0" + b"\4\0\0\0" + b"\xfe\x3f\0" + b"\x02\0\0"
    assert frames_of(after)[0][1] == (16_383, 3)


def test_scaling_hints_are_not_part_of_the_canvas():
    [(kind, data)] = riff(samples()["webp"])
    hinted = data[:7] + bytes([data[7] | 0x40]) + data[8:9] + bytes([data[9] | 0xC0]) + data[10:]  # RFC 6386, 9.1
    assert put(webp((kind, hinted)))[0] == webp(extended(4), (kind, hinted), (b"XMP ", ADDED))


@pytest.mark.parametrize("name", ["webp alpha", "webp with exif", "webp animated"])
def test_extended_webp_gets_the_chunk_at_its_end(name):
    (kind, header), *rest = riff(samples()[name])
    assert header[0] & 4 == 0
    after, _ = put(samples()[name] + b"behind")
    header = bytes([header[0] | 4]) + header[1:]
    assert after == webp((kind, header), *rest, (b"XMP ", ADDED), behind=b"behind")


def test_webp_chunk_is_replaced_where_it_stands():
    [image] = riff(samples()["webp"])
    exif, old = (b"EXIF", b"MM\0*\0"), (b"XMP ", HUMAN + b"." * (len(HUMAN) % 2 == 0))  # both odd, so padded
    after, found = put(webp(extended(0x0C), image, old, exif))
    assert found == old[1]
    assert after == webp(extended(0x0C), image, (b"XMP ", ADDED), exif)
    unannounced = webp(extended(0x08), image, exif, old)
    assert put(unannounced)[0] == webp(extended(0x0C), image, exif, (b"XMP ", ADDED))


IMAGE = riff(samples()["webp"])[0]


@pytest.mark.parametrize(
    "content",
    [
        webp(),
        webp(IMAGE, (b"EXIF", b"MM\0*")),  # which only an extended file may have
        webp((b"XMP ", ADDED), IMAGE),
        webp((b"VP8X", bytes(9)), IMAGE),
        webp((b"VP8 ", IMAGE[1][:9])),
        webp((b"VP8 ", IMAGE[1][:3] + b"\0" + IMAGE[1][4:])),  # no key frame
        webp((b"VP8 ", IMAGE[1][:6] + bytes(4) + IMAGE[1][10:])),  # no pixels
        webp((b"VP8L", b"\x2e" + bytes(9))),
        webp(extended(4), IMAGE, (b"XMP ", HUMAN), (b"XMP ", HUMAN)),
        webp(extended(4), IMAGE)[:-1],
        webp(extended(4), IMAGE).replace(b"WEBP", b"WAVE"),
        webp(extended(4), IMAGE, (b"EXIF", b"odd"))[:-1],
        b"RIFF" + struct.pack("<I", 4 + 8) + b"WEBPEXIF\xff\xff\xff\xff",
    ],
)
def test_malformed_webp_is_refused(content):
    assert refused(content)


# ---------------------------------------------------------------------------------------------- GIF

SCREEN = b"\1\0\1\0\x80\0\0" + b"\x10\x20\x30\x40\x50\x60"  # 1x1, two colours
PIXEL = b"\x2c\0\0\0\0\1\0\1\0\0" + b"\2" + b"\2\x4c\1\0"  # no colours of its own
LOOP = b"\x21\xff\x0bNETSCAPE2.0\3\1\0\0\0"
CONTROL = b"\x21\xf9\4\0\x0a\0\0\0"
REMARK = b"\x21\xfe\5hello\0"


def gif_packet(packet):
    return b"\x21\xff\x0bXMP DataXMP" + packet + GIF_MAGIC


def gif(*blocks, screen=SCREEN, version=b"GIF89a"):
    return version + screen + b"".join(blocks) + b"\x3b"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([PIXEL], [gif_packet(ADDED), PIXEL]),
        ([LOOP, CONTROL, PIXEL, CONTROL, PIXEL], [LOOP, gif_packet(ADDED), CONTROL, PIXEL, CONTROL, PIXEL]),
        ([REMARK, LOOP, PIXEL], [gif_packet(ADDED), REMARK, LOOP, PIXEL]),
        ([LOOP, gif_packet(HUMAN), PIXEL], [LOOP, gif_packet(ADDED), PIXEL]),
        ([PIXEL, gif_packet(HUMAN), REMARK], [PIXEL, gif_packet(ADDED), REMARK]),
        ([], [gif_packet(ADDED)]),
    ],
)
def test_gif_block_stands_after_the_leading_extensions(before, after):
    assert put(gif(*before) + b"behind")[0] == gif(*after) + b"behind"


def test_gif_with_several_colour_tables():
    own = PIXEL[:9] + b"\x82" + bytes(24) + PIXEL[10:]  # eight colours
    bare = b"\1\0\1\0\x07\0\0"  # the size of a table without its flag
    assert put(gif(own, REMARK, screen=bare))[0] == gif(gif_packet(ADDED), own, REMARK, screen=bare)


def test_old_gif_becomes_one_that_knows_extensions():
    before = gif(PIXEL, version=b"GIF87a")
    assert put(before)[0] == gif(gif_packet(ADDED), PIXEL)
    assert frames_of(put(before)[0])[0][1:] == frames_of(before)[0][1:]


@pytest.mark.parametrize(
    "content",
    [
        gif(gif_packet(HUMAN), gif_packet(HUMAN), PIXEL),
        gif(b"\x21\xff\x0bXMP DataXMP\5hello\0", PIXEL),  # in blocks, and so without its end
        gif(b"\0", PIXEL),
        gif(PIXEL)[:-1],
        gif(PIXEL[:-1])[:-1],
        gif()[:15],
    ],
)
def test_malformed_gif_is_refused(content):
    assert refused(content)


# ---------------------------------------------------------------------------------------------- TIFF


def tiff(order, *entries, first=8, following=0, head=b"", tail=b""):
    """`entries` are (tag, type, count, value); `head` stands before the directory at `first`, `tail` after it."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    lines = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    directory = struct.pack(order + "H", len(entries)) + lines + struct.pack(order + "I", following)
    return (mark + struct.pack(order + "I", first) + head).ljust(first, b"\0") + directory + tail


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_gets_a_new_directory_at_its_end(order):
    second = tiff(order, (256, 4, 1, 7))[8:]
    before = tiff(order, (256, 4, 1, 9), (305, 2, 4, 0), (34675, 7, 3, 0), following=50, tail=second + b".")
    assert len(before) == 8 + (2 + 3 * 12 + 4) + (2 + 12 + 4) + 1 == 69
    entries = (256, 4, 1, 9), (305, 2, 4, 0), (700, 1, 11, 70), (34675, 7, 3, 0)
    old = before[8:] + b"\0" + ADDED + b"\0"  # both start at even places, TIFF 6.0 section 2
    assert put(before)[0] == tiff(order, *entries, first=70 + 12, following=50, head=old)


@pytest.mark.parametrize("kind", [1, 7])
def test_tiff_packet_is_replaced(kind):
    before = tiff("<", (256, 4, 1, 9), (700, kind, len(HUMAN), 8 + 30), tail=HUMAN + b"pixels")
    after, found = put(before)
    assert found == HUMAN
    place = len(before) + len(before) % 2
    assert after == tiff(
        "<",
        (256, 4, 1, 9),
        (700, 1, 11, place),
        first=place + 12,
        head=before[8:].ljust(place - 8, b"\0") + ADDED + b"\0",
    )


def test_tiff_does_not_grow_by_what_is_replaced():
    once, _ = put(samples()["tiff"])
    longer, _ = put(once, HUMAN * 10)
    assert put(longer)[0] == once
    assert once[8:].startswith(samples()["tiff"][8:])


def test_tiff_packet_before_pixels_stays_as_unused_bytes():
    before = tiff("<", (700, 1, len(HUMAN), 8), first=8 + len(HUMAN), head=HUMAN, tail=b"pixels")
    assert put(before)[0][8 : len(before)] == before[8:]


@pytest.mark.parametrize(
    "shared",
    [
        [(273, 4, 1, 12), (279, 4, 1, 4)],  # pixels that are part of the packet
        [(273, 4, 1, 4 + 8), (279, 4, 1, len(HUMAN))],  # that go on into the directory
        [(273, 4, 1, 10)],
        [(305, 2, len(HUMAN), 8)],  # a text that is the packet
    ],
)
def test_tiff_packet_that_is_something_else_too_stays(shared):
    entries = sorted([(700, 1, len(HUMAN), 8), *shared])
    first = 8 + len(HUMAN) + len(HUMAN) % 2
    alone = tiff("<", (700, 1, len(HUMAN), 8), first=first, head=HUMAN)
    before = tiff("<", *entries, first=first, head=HUMAN)
    assert put(alone)[0] == tiff("<", (700, 1, 11, 8), first=8 + 12, head=ADDED)
    assert put(before)[0][8 : len(before)] == before[8:]


@pytest.mark.parametrize(("between", "behind"), [(b"not spoken of", b""), (b"", b"not spoken of")])
def test_tiff_keeps_what_it_does_not_speak_of(between, behind):
    head = HUMAN + b"." * (len(HUMAN) % 2) + between
    before = tiff("<", (700, 1, len(HUMAN), 8), first=8 + len(head) + len(head) % 2, head=head, tail=behind)
    assert put(before)[0][8 : len(before)] == before[8:]


def test_pages_of_a_tiff_stay():
    after = embed(samples()["tiff pages"], [note()])
    assert [size for _, size, *_ in frames_of(after)] == [(37, 23), (37, 23)]
    with Image.open(io.BytesIO(after)) as image:
        image.seek(1)
        assert 700 not in image.tag_v2


@pytest.mark.parametrize(
    "content",
    [
        b"II*\0" + bytes(60),
        b"II*\0\xff\xff\xff\x7f" + bytes(60),
        tiff("<"),
        tiff("<", (256, 4, 1, 9))[:-1],
        tiff("<", (256, 4, 1, 9), following=8),  # a circle
        tiff("<", (256, 4, 1, 9), following=10_000),
        tiff("<", (256, 4, 1, 9), following=26, tail=bytes(20)),
        tiff("<", (256, 14, 1, 9)),  # no such type
        tiff("<", (256, 0, 1, 9)),
        tiff("<", (305, 2, 19, 8)),  # from here on: values and pixels that the file lacks, but with more bytes has
        tiff("<", (305, 12, 2**32 - 1, 8)),
        tiff("<", (273, 4, 1, 27)),
        tiff("<", (324, 4, 1, 27)),
        tiff("<", (273, 4, 1, 8), (279, 4, 1, 31)),
        tiff("<", (324, 4, 1, 8), (325, 3, 1, 31)),
        tiff("<", (273, 4, 1000, 8), (279, 4, 1, 1)),
        tiff("<", (273, 4, 2**32 - 1, 8)),
        tiff("<", (273, 4, 1, 8), (279, 3, 2, 1)),  # more sizes than places
        tiff("<", (256, 4, 1, 9), following=26, tail=tiff("<", (273, 4, 1, 45))[8:]),
        tiff("<", (305, 2, 5, 4)),  # in the header, which will change
        tiff("<", (273, 4, 1, 4), (279, 4, 1, 4)),
        tiff("<", (273, 1, 1, 8)),
        tiff("<", (700, 1, 4, 8)),
        tiff("<", (700, 1, 1000, 8)),
        tiff("<", (700, 2, 8, 8)),
        tiff("<", (700, 1, 8, 8), (700, 1, 8, 8)),
    ],
)
def test_malformed_tiff_is_refused(content):
    assert refused(content)
