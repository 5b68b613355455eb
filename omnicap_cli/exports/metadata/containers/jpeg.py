"""A packet in a JPEG file. It knows the segments before the compressed pixels, and the index of further pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from omnicap_cli.exports.metadata.containers.file_parts import (
    FilePart,
    NotEmbeddableError,
    PacketChange,
    at_most_one,
    has_name,
)

_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_PACKET_BYTES: Final = 65_502  # XMP specification part 3, 1.1.3
_APP0, _APP1, _APP2, _SOS = b"\xe0", b"\xe1", b"\xe2", b"\xda"
_BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}  # of the index, as the struct module spells them
_PARAMETERLESS: Final = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # no segment, or none that belongs before pixels


def rewrite_jpeg(content: bytes, change: PacketChange) -> bytes:
    """ITU-T T.81 B.1.1; the packet is an APP1 segment after those of JFIF and EXIF."""
    segments = list(_segments(content))
    old = at_most_one([part for part in segments if has_name(content, part, _APP1, _XMP)])
    packet = change(content[old.body + len(_XMP) : old.end] if old else b"")
    if len(packet) > _MAX_PACKET_BYTES:
        raise NotEmbeddableError("the packet is too long for a segment")
    leading = [part.end for part in segments if part.kind == _APP0 or has_name(content, part, _APP1, b"Exif\0")]
    place = max(leading, default=2)
    start, end = (old.start, old.end) if old else (place, place)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(_XMP) + len(packet)) + _XMP + packet
    pictures = at_most_one([part for part in segments if has_name(content, part, _APP2, b"MPF\0")])
    if pictures:
        content = _with_shifted_index(content, pictures, at=start, grown=len(segment) - (end - start))
    return content[:start] + segment + content[end:]


def _segments(content: bytes) -> Iterator[FilePart]:
    """The segments before the compressed pixels."""
    end = 2
    while True:
        start = end
        place = start + 1
        while content[place] == 0xFF:  # fill bytes
            place += 1
        if content[start] != 0xFF or content[place] in _PARAMETERLESS:
            raise NotEmbeddableError("no segment where one should be")
        (length,) = struct.unpack_from(">H", content, place + 1)
        end = place + 1 + length
        if end > len(content):
            raise NotEmbeddableError("a segment goes past the end")
        kind = content[place : place + 1]
        if kind == _SOS:
            return
        yield FilePart(kind, start, place + 3, end)


def _with_shifted_index(content: bytes, part: FilePart, *, at: int, grown: int) -> bytes:
    """The file with the index of a multi-picture file as it has to be once the bytes at `at` are `grown` more.

    CIPA DC-007, 5.2: sizes in bytes, and offsets that count from the byte order mark of the index.
    """
    base = part.body + len(b"MPF\0")
    order = _BYTE_ORDERS.get(content[base : base + 4])
    if order is None:
        raise NotEmbeddableError("the index of pictures is malformed")
    (directory,) = struct.unpack_from(order + "I", content, base + 4)
    (num_entries,) = struct.unpack_from(order + "H", content, base + directory)
    patched = bytearray(content)
    for number in range(num_entries):
        tag, _, num_bytes, entries = struct.unpack_from(order + "HHII", content, base + directory + 2 + 12 * number)
        if tag != 0xB002:  # the list of pictures
            continue
        if base + entries + num_bytes > part.end or num_bytes % 16:
            raise NotEmbeddableError("the index of pictures is malformed")
        for place in range(base + entries, base + entries + num_bytes, 16):
            size, offset = struct.unpack_from(order + "II", content, place + 4)
            if offset == 0:  # the picture that grows
                size += grown
            elif part.start < at:
                offset += grown
            struct.pack_into(order + "II", patched, place + 4, size, offset)
    return bytes(patched)
