"""A packet in a GIF file. It knows blocks and no pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from omnicap_cli.exports.metadata.containers.file_parts import Change, NotEmbeddableError, Part, at_most_one

_XMP: Final = b"\x21\xff\x0bXMP DataXMP"
_MAGIC: Final = b"\x01" + bytes(range(255, -1, -1)) + b"\0"  # leads a reader that sees blocks in a packet out of it


def rewrite_gif(content: bytes, change: Change) -> bytes:
    """XMP specification part 3, 1.1.2; the packet is an application extension, put after the leading ones.

    One that makes the pictures loop has to be the first, and programs look for packets before the pictures.
    """
    blocks = list(_blocks(content))
    old = at_most_one([part for part in blocks if content.startswith(_XMP, part.start)])
    found = content[old.start + len(_XMP) : old.end] if old else _MAGIC
    if not found.endswith(_MAGIC):
        raise NotEmbeddableError("a packet without its end")
    block = _XMP + change(found.removesuffix(_MAGIC)) + _MAGIC
    leading = itertools.takewhile(lambda part: content.startswith(b"\x21\xff", part.start), blocks)
    place = max((part.end for part in leading), default=_table_end(content, 10, 13))
    start, end = (old.start, old.end) if old else (place, place)
    return b"GIF89a" + content[6:start] + block + content[end:]  # GIF87a knows no extensions


def _blocks(content: bytes) -> Iterator[Part]:
    """What stands between the header and the trailer."""
    start = _table_end(content, 10, 13)
    while (kind := content[start : start + 1]) != b"\x3b":
        if kind == b"\x2c":
            data = _table_end(content, start + 9, start + 10) + 1
        elif kind == b"\x21":
            data = start + 2
        else:
            raise NotEmbeddableError("no block where one should be")
        end = data
        while length := content[end]:
            end += 1 + length
        end += 1
        yield Part(kind, start, data, end)
        start = end


def _table_end(content: bytes, flags: int, start: int) -> int:
    """Where the colour table that may follow a descriptor ends; its flags are at `flags`."""
    return start + (3 << (content[flags] & 7) + 1 if content[flags] & 0x80 else 0)
