"""The size of a picture from its first bytes, for hundreds of millions of them: of usual JPEG and PNG files.

Pillow is the judge, of sizes and of what is broken. A file in which anything that Pillow would look at isn't plain goes
to `images.header_size`: the code here may doubt too often, and must never be sure too often.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from PIL import PngImagePlugin

from omnicap_cli.media.images import DEFAULT_MAX_DECODE_PIXELS, Size, header_size

_FIRST_BYTES: Final = 1 << 12  # most headers end in them
_MORE_BYTES: Final = 1 << 18  # for thumbnails and large colour profiles
_SEGMENT: Final = struct.Struct(">BBH")
_FRAME: Final = struct.Struct(">BHHB")
_FRAMES: Final = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive
_TABLES, _SCAN, _APP0, _APP1, _APP2, _APP13, _APP14 = 0xDB, 0xDA, 0xE0, 0xE1, 0xE2, 0xED, 0xEE
_SKIPPED: Final = frozenset((0xC4, 0xDD, 0xFE, *range(0xE3, 0xED), 0xEF))  # Pillow doesn't look inside
_MIN_APP_BYTES: Final = ((_APP0, b"JFIF", 7), (_APP2, b"ICC_PROFILE\0", 14), (_APP14, b"Adobe", 7))
_ORIENTATION: Final = 0x112
_KINDS: Final = {_ORIENTATION: (3, 1), 0x11A: (5, 1), 0x128: (3, 1)}  # type and count of the tags that Pillow reads
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TURNED: Final = (5, 6, 7, 8)
_IHDR: Final = struct.Struct(">I4sIIBBxBxI")
_CHUNK: Final = struct.Struct(">I4s")
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
_MIN_TRANSPARENCY_BYTES: Final = {0: 2, 2: 6}  # by colour type
_MIN_CHUNK_BYTES: Final = {
    **{b"PLTE": 0, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9},
    **{b"bKGD": 0, b"sBIT": 0, b"tIME": 0, b"hIST": 0, b"cICP": 0},
}
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORDS: Final = (b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp")  # of texts with an orientation
_KEYWORD_BYTES: Final = max(map(len, _KEYWORDS))


def quick_size(path: str, *, max_decode_pixels: int | None = None) -> Size:
    """What `images.header_size` says of a file, or the ItemError that it raises; several times as fast for most."""
    size = _sure_size(path)
    if size is None or size.width * size.height > 2 * (max_decode_pixels or DEFAULT_MAX_DECODE_PIXELS):
        return header_size(path, max_decode_pixels=max_decode_pixels)
    return size


def _sure_size(path: str) -> Size | None:
    """None where there is any doubt, here and below."""
    try:
        descriptor = os.open(path, os.O_RDONLY)  # twice as fast as `open`, whose buffer isn't needed here
    except (OSError, ValueError):
        return None
    try:
        head = os.read(descriptor, _FIRST_BYTES)
        size = _size_in(head, descriptor)
        if size is None and len(head) == _FIRST_BYTES:
            size = _size_in(head + os.read(descriptor, _MORE_BYTES), descriptor)
        return size
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _size_in(head: bytes, descriptor: int) -> Size | None:
    try:
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(head)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png_size(head, descriptor)
    except (struct.error, LookupError):  # it ends too early, or has types that aren't known
        return None
    return None


# ---------------------------------------------------------------------------------------------- JPEG


def _jpeg_size(head: bytes) -> Size | None:
    """Of whole segments, one behind the other, up to the pixels (ITU-T T.81, annex B)."""
    size, exif, has_xmp_orientation, end = None, b"", False, 2
    while True:
        mark, kind, num_bytes = _SEGMENT.unpack_from(head, end)
        start, end = end + 4, end + 2 + num_bytes
        if mark != 0xFF or end > len(head):
            return None
        if kind == _SCAN:
            break
        if kind in _SKIPPED:
            continue
        if kind in _FRAMES:
            bits, height, width, num_layers = _FRAME.unpack_from(head, start)
            if bits != 8 or num_layers not in (1, 3, 4) or num_bytes < 8 or (num_bytes - 8) % 3:
                return None
            size = Size(width, height)
        elif kind == _APP1 and head.startswith(b"Exif\0\0", start, end):
            if exif:  # Pillow joins several
                return None
            exif = head[start + 6 : end]
        elif kind == _APP1:
            has_xmp_orientation = has_xmp_orientation or b"tiff:Orientation" in head[start:end]
        elif not (_are_tables(head, start, end) if kind == _TABLES else _is_plain_app(kind, head[start:end])):
            return None
    orientation = _orientation_in(exif) if exif else 0
    if not size or not all(size) or orientation is None or (has_xmp_orientation and not orientation):
        return None
    return Size(size.height, size.width) if orientation in _TURNED else size


def _are_tables(head: bytes, start: int, end: int) -> bool:
    """Whether there are whole quantization tables, each of 64 values of one byte or two."""
    while start < end:
        start += 65 if head[start] < 16 else 129
    return start == end


def _is_plain_app(kind: int, content: bytes) -> bool:
    for app, name, min_bytes in _MIN_APP_BYTES:
        if kind == app and content.startswith(name):
            return len(content) >= min_bytes
    if kind == _APP13:  # Photoshop's resources: Pillow stumbles where they end behind the number of one
        return content[-6:-2] != b"8BIM"
    return kind in (_APP0, _APP2, _APP14)


def _orientation_in(exif: bytes) -> int | None:
    """As EXIF behind its mark tells it, 0 where it doesn't; None if any tag is odd (TIFF 6.0, section 2)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (num_tags,) = struct.unpack_from(order + "H", exif, start)
    orientation = 0
    for tag, kind, count, value in struct.iter_unpack(order + "HHII", exif[start + 2 : start + 2 + 12 * num_tags]):
        num_bytes = _TYPE_BYTES[kind] * count
        if num_bytes > 4 and value + num_bytes > len(exif):
            return None
        if (kind, count) != _KINDS.get(tag, (kind, count)):
            return None
        if tag == _ORIENTATION:
            short = value >> 16 if order == ">" else value & 0xFFFF
            if orientation or not short:
                return None
            orientation = short
    return orientation


# ---------------------------------------------------------------------------------------------- PNG


def _png_size(head: bytes, descriptor: int) -> Size | None:
    """Of well-known chunks with the right checksums, up to the pixels (PNG specification, third edition, 5 and 11)."""
    num_bytes, name, width, height, depth, color_type, filters, checksum = _IHDR.unpack_from(head, 8)
    if (num_bytes, name) != (13, b"IHDR") or zlib.crc32(head[12:29]) != checksum:
        return None
    if depth not in _DEPTHS[color_type] or filters or not width or not height:
        return None
    at = 33
    while True:
        num_bytes, name = _CHUNK.unpack_from(head, at)
        if name == b"IDAT":
            return None if _has_late_orientation(head, at, descriptor) else Size(width, height)
        start, end = at + 8, at + 8 + num_bytes
        (checksum,) = struct.unpack_from(">I", head, end)
        if zlib.crc32(head[at + 4 : end]) != checksum or not _is_plain_chunk(name, head[start:end], color_type):
            return None
        at = end + 4


def _is_plain_chunk(name: bytes, content: bytes, color_type: int) -> bool:
    if name == b"tEXt":
        return not content.startswith(_KEYWORDS)
    if name == b"tRNS":
        return len(content) >= _MIN_TRANSPARENCY_BYTES.get(color_type, 0)
    if name == b"iCCP":
        return _is_plain_profile(content)
    return len(content) >= _MIN_CHUNK_BYTES.get(name, len(content) + 1)


def _is_plain_profile(content: bytes) -> bool:
    _, _, packed = content.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:  # Pillow does without the profile
        return packed.startswith(b"\0")
    return packed.startswith(b"\0") and not unpacker.unconsumed_tail


def _has_late_orientation(head: bytes, at: int, descriptor: int) -> bool:
    """Whether a chunk from `at` to the end of the file may have one."""
    num_bytes = 8 + _KEYWORD_BYTES
    while True:
        start = head[at : at + num_bytes]
        if len(start) < num_bytes:
            start = os.pread(descriptor, num_bytes, at)
        if len(start) < 8:
            return False
        length, name = _CHUNK.unpack_from(start)
        if name == b"eXIf" or (name in _TEXTS and start.startswith(_KEYWORDS, 8)):
            return True
        at += length + 12
