"""A packet in a WebP file. It knows chunks, and of compressed pictures no more than their size."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from omnicap_cli.exports.metadata.containers.file_parts import FilePart, NotEmbeddableError, PacketChange, at_most_one

_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10


def rewrite_webp(content: bytes, change: PacketChange) -> bytes:
    """The WebP container specification; the packet is the chunk XMP, for which the file needs the extended header."""
    riff_end = 8 + _u32(content, 4)
    if content[8:12] != b"WEBP" or riff_end > len(content):
        raise NotEmbeddableError("not a whole WebP file")
    chunks = list(_riff_chunks(content, 12, riff_end))
    old = at_most_one([part for part in chunks if part.kind == b"XMP "])
    packet = change(content[old.body : old.body + _u32(content, old.start + 4)] if old else b"")
    chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    start, end = (old.start, old.end) if old else (riff_end, riff_end)
    header, header_end = _extended_header(content, chunks)
    form = b"WEBP" + header + content[header_end:start] + chunk + content[end:riff_end]
    return b"RIFF" + struct.pack("<I", len(form)) + form + content[riff_end:]


def _u32(content: bytes, place: int) -> int:
    return int(struct.unpack_from("<I", content, place)[0])


def _riff_chunks(content: bytes, start: int, riff_end: int) -> Iterator[FilePart]:
    while start < riff_end:
        size = _u32(content, start + 4)
        end = start + 8 + size + size % 2
        if end > riff_end:
            raise NotEmbeddableError("a chunk goes past the end")
        yield FilePart(content[start : start + 4], start, start + 8, end)
        start = end


def _extended_header(content: bytes, chunks: list[FilePart]) -> tuple[bytes, int]:
    """The one that the file has or gets, with the flag for a packet; and where what follows it begins in the file."""
    first = chunks[0]
    body = content[first.body : first.body + _u32(content, first.start + 4)]
    if first.kind == b"VP8X" and len(body) == 10:
        return content[first.start : first.body] + bytes([body[0] | _XMP_FLAG]) + body[1:], first.end
    if len(chunks) > 1:  # which only the extended header allows
        raise NotEmbeddableError("chunks where none belong")
    width, height, has_alpha = _canvas(first.kind, body)
    flags = _XMP_FLAG | (_ALPHA_FLAG if has_alpha else 0)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<II", 10, flags) + size, first.start


def _canvas(kind: bytes, body: bytes) -> tuple[int, int, bool]:
    """Width and height in pixels, and whether there is an alpha channel, from a compressed picture's first bytes."""
    if kind == b"VP8L" and body[0] == 0x2F:  # WebP lossless bitstream specification, 3
        (bits,) = struct.unpack_from("<I", body, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":  # RFC 6386, 9.1
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", body, 6))
        if width and height:
            return width, height, False
    raise NotEmbeddableError("no picture where one should be")
