"""A packet in a TIFF file. It knows the directories of the pages, and where they say that the file's parts are."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from omnicap_cli.exports.metadata.containers.file_parts import Change, NotEmbeddableError, byte_order

_XMP: Final = 700
_BYTE, _SHORT, _LONG, _UNDEFINED = 1, 3, 4, 7
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_PIXEL_OFFSETS, _PIXEL_BYTES = (273, 324), (279, 325)  # of strips, of tiles
_HEADER_BYTES: Final = 8


class _Entry(NamedTuple):
    """`value` is where the value is, or the value itself where it fits."""

    tag: int
    kind: int
    num_values: int
    value: bytes


class _Directory(NamedTuple):
    """What content[start:end] tells of a page; `following` is where the next directory starts, or 0."""

    start: int
    end: int
    entries: list[_Entry]
    following: int


class _Extent(NamedTuple):
    start: int
    end: int


def rewrite_tiff(content: bytes, change: Change) -> bytes:
    """TIFF 6.0, section 2; a new first directory is appended, for offsets to whatever else is there must stay true."""
    order = byte_order(content[:4])
    directories = list(_directories(content, order))
    extents = [extent for directory in directories for extent in _extents(content, order, directory)]
    if not directories or any(start < _HEADER_BYTES or end > len(content) for start, end in extents):
        raise NotEmbeddableError("the file lacks parts that it speaks of")
    first = directories[0]
    old = _packet(order, first)
    packet = change(content[old.start : old.end])
    if _is_last(extents, old, first) and first.end == len(content):
        content = content[: old.start]  # both stand at the end, as they are written here: replaced, they don't pile up
    return _appended(content, order, first, packet)


def _directories(content: bytes, order: str) -> Iterator[_Directory]:
    """Of all pages, the first page's first."""
    seen: set[int] = set()
    (start,) = struct.unpack_from(order + "I", content, 4)
    while start:
        (num_entries,) = struct.unpack_from(order + "H", content, start)
        end = start + 2 + 12 * num_entries
        entries = [_Entry(*struct.unpack_from(order + "HHI4s", content, place)) for place in range(start + 2, end, 12)]
        (following,) = struct.unpack_from(order + "I", content, end)
        if not entries or start in seen:
            raise NotEmbeddableError("an empty directory, or a circle of them")
        seen.add(start)
        yield _Directory(start, end + 4, entries, following)
        start = following


def _extents(content: bytes, order: str, directory: _Directory) -> Iterator[_Extent]:
    """Every part of the file that a directory tells of, itself included."""
    yield _Extent(directory.start, directory.end)
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    for entry in directory.entries:
        if entry.kind not in _TYPE_BYTES:
            raise NotEmbeddableError("a value of an unknown type")
        extent = _extent(order, entry)
        if extent:
            yield extent
        if entry.tag in _PIXEL_OFFSETS:
            offsets = _numbers(content, order, entry)
        elif entry.tag in _PIXEL_BYTES:
            sizes = _numbers(content, order, entry)
    for offset, size in itertools.zip_longest(offsets, sizes, fillvalue=0):
        yield _Extent(offset, offset + size)


def _extent(order: str, entry: _Entry) -> _Extent | None:
    """Where the value of an entry is, if not in the entry."""
    num_bytes = _TYPE_BYTES[entry.kind] * entry.num_values
    if num_bytes <= len(entry.value):
        return None
    (start,) = struct.unpack(order + "I", entry.value)
    return _Extent(start, start + num_bytes)


def _numbers(content: bytes, order: str, entry: _Entry) -> tuple[int, ...]:
    letter = {_SHORT: "H", _LONG: "I"}.get(entry.kind)
    if letter is None:
        raise NotEmbeddableError("places or sizes that aren't numbers")
    extent = _extent(order, entry)
    held = content[extent.start : extent.end] if extent else entry.value
    return struct.unpack_from(f"{order}{entry.num_values}{letter}", held)


def _packet(order: str, directory: _Directory) -> _Extent:
    """Where the packet is; empty if there is none."""
    old = [entry for entry in directory.entries if entry.tag == _XMP]
    if not old:
        return _Extent(0, 0)
    extent = _extent(order, old[0])
    if len(old) > 1 or old[0].kind not in (_BYTE, _UNDEFINED) or not extent:
        raise NotEmbeddableError("a packet that isn't one, or several")
    return extent


def _is_last(extents: list[_Extent], packet: _Extent, directory: _Directory) -> bool:
    """Whether a packet and then a directory come after all else, and with nothing between."""
    behind = sorted(extent for extent in extents if extent.end > packet.start)
    return behind == [packet, (directory.start, directory.end)] and _even(packet.end) == directory.start


def _appended(content: bytes, order: str, first: _Directory, packet: bytes) -> bytes:
    """The file with a packet and a directory that has it instead of any other; both start at even places."""
    place = _even(len(content))
    start = _even(place + len(packet))
    added = _Entry(_XMP, _BYTE, len(packet), struct.pack(order + "I", place))
    entries = sorted([*(entry for entry in first.entries if entry.tag != _XMP), added], key=lambda entry: entry.tag)
    lines = b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries)
    directory = struct.pack(order + "H", len(entries)) + lines + struct.pack(order + "I", first.following)
    head = content[:4] + struct.pack(order + "I", start) + content[_HEADER_BYTES:]
    return (head.ljust(place, b"\0") + packet).ljust(start, b"\0") + directory


def _even(place: int) -> int:
    return place + place % 2
