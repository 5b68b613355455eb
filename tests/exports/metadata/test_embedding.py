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
from omnicap_cli.exports.metadata.xmp import embed_captions

ADDED = b"<?xpacket?>"  # not XMP: what a packet says is not the container's business; an odd number of bytes
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def put(content, packet=ADDED):
    """`content` with `packet`, and the packet that it had."""
    found = []
    return rewrite_packet(content, lambda old: (found.append(old), packet)[1]), *found


def refused(content):
    with pytest.raises(NotEmbeddableError):
        put(content)
    assert embed_captions(content, [note()]) is None
    return True


# ---------------------------------------------------------------------------------------------- every format


@pytest.mark.parametrize("name", sorted(samples()))
def test_pixels_and_other_metadata_stay(name):
    before = samples()[name]
    after = embed_captions(before, [note("a caption")])
    assert frames_of(before)
    assert frames_of(after) == frames_of(before)
    assert other_metadata(after) == other_metadata(before)
    assert "a caption" in packet_of(after)


@pytest.mark.parametrize("name", sorted(name for name in samples() if "everything" in name))
def test_old_packet_is_handed_over_and_replaced(name):
    after, found = put(samples()[name])
    assert found == HUMAN
    assert packet_of(after).encode() == ADDED
    assert b"Titel" not in after
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
        b"RIFF",
        b"a text",
        b"%PDF-1.7\n",
        b"RIFF\x04\0\0\0WAVE",
        saved(picture(), "BMP"),
        saved(picture(), "GIF"),
        saved(picture(), "GIF", save_all=True, append_images=[picture(shift=30)]),
        saved(picture(), "TIFF", tiffinfo={700: HUMAN}),
        saved(picture(), "TIFF", save_all=True, append_images=[picture(shift=30)]),
        saved(picture(), "JPEG2000"),
        saved(picture(), "PPM"),
    ],
)
def test_other_formats_take_none(content):
    assert refused(content)


@pytest.mark.parametrize("name", sorted(samples()))
def test_signed_file_is_left_alone(name):
    assert refused(samples()[name] + b"\0\0jumdc2as\0c2pa.assertions\0")


@pytest.mark.parametrize("name", sorted(name for name in samples() if name.startswith(("png", "webp"))))
def test_file_that_is_cut_off_is_refused(name):
    for end in range(len(samples()[name])):
        assert embed_captions(samples()[name][:end], [note()]) is None


@pytest.mark.parametrize("name", sorted(name for name in samples() if name.startswith("jpeg")))
def test_cut_that_only_a_decoder_can_see_does_no_further_harm(name):
    for end in range(0, len(samples()[name]), 11):
        cut = samples()[name][:end]
        after = embed_captions(cut, [note()])
        before = frames_of(cut)
        assert after is None or before is None or frames_of(after) == before


mutations = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=6)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
@given(data=st.data())
@settings(max_examples=120)
def test_damaged_file_decodes_as_before(format, data):
    names = sorted(name for name in samples() if name.startswith(format))
    content = bytearray(samples()[data.draw(st.sampled_from(names))])
    if data.draw(st.booleans()):
        content = bytearray(embed_captions(bytes(content), [note()]))
    within = data.draw(st.sampled_from([64, 1024, len(content)]))
    for place, value, how in data.draw(mutations):
        place %= min(len(content), within)
        content[place : place + (how > 0)] = [value] * (how < 2)  # put in, put in place of another, take out
    damaged = bytes(content)
    after = embed_captions(damaged, [note()])
    if after is not None:
        before = frames_of(damaged)
        assert before is None or frames_of(after) == before
        assert embed_captions(after, [note()]) == after


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
    assert embed_captions(samples()["jpeg"], notes) is None
    for name in ("png", "webp"):
        after = embed_captions(samples()[name], notes)
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
    after = embed_captions(behind, [note()])
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
