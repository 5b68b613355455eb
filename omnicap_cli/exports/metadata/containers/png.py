"""A packet in a PNG file, animated or not. It knows chunks and no pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from omnicap_cli.exports.metadata.containers.file_parts import (
    MAX_PACKET_BYTES,
    FilePart,
    NotEmbeddableError,
    PacketChange,
    at_most_one,
    has_name,
)

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_XMP: Final = b"XML:com.adobe.xmp\0"
_HEADER_END: Final = 33  # the signature, and IHDR with its frame


def rewrite_png(content: bytes, change: PacketChange) -> bytes:
    """PNG specification 11.3.3.4; the packet is an iTXt chunk, put right after the header."""
    chunks = list(_png_chunks(content))
    kinds = [part.kind for part in chunks]
    if kinds[0] != b"IHDR" or chunks[0].end != _HEADER_END or b"IDAT" not in kinds:
        raise NotEmbeddableError("not a whole PNG")
    old = at_most_one([part for part in chunks if has_name(content, part, b"iTXt", _XMP)])
    packet = change(_packet_in_text(content[old.body + len(_XMP) : old.end - 4]) if old else b"")
    body = b"iTXt" + _XMP + b"\0\0\0\0" + packet  # not compressed; no language, no translated keyword
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    start, end = (old.start, old.end) if old else (_HEADER_END, _HEADER_END)
    return content[:_HEADER_END] + chunk + content[_HEADER_END:start] + content[end:]


def _png_chunks(content: bytes) -> Iterator[FilePart]:
    end, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        start = end
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content):
            raise NotEmbeddableError("a chunk goes past the end")
        yield FilePart(kind, start, start + 8, end)


def _packet_in_text(body: bytes) -> bytes:
    """The text of an iTXt chunk, from what follows its keyword."""
    texts = body[2:].split(b"\0", 2)  # language, translated keyword, text
    if body[0] > 1 or body[1] != 0:
        raise NotEmbeddableError("a text chunk is malformed")
    if not body[0]:
        return texts[2]
    inflater = zlib.decompressobj()
    packet = inflater.decompress(texts[2], MAX_PACKET_BYTES)
    if not inflater.eof:
        raise NotEmbeddableError("a compressed packet is cut off, or too large")
    return packet
