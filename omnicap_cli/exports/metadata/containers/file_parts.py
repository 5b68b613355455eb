"""What the containers share: their parts, and the refusal of a file. It knows no format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

MAX_PACKET_BYTES: Final = 4 << 20  # far above what programs write; a packet may be compressed, and so a bomb
PacketChange = Callable[[bytes], bytes]
"""From the packet that a file has (empty where it has none) to the one that it gets."""


class NotEmbeddableError(Exception):
    """The file can't take a packet, or not without harm. It never leaves `exports`."""


class FilePart(NamedTuple):
    """A segment or chunk: content[start:end] with its frame, its data from content[body]."""

    kind: bytes
    start: int
    body: int
    end: int


def has_name(content: bytes, part: FilePart, kind: bytes, name: bytes) -> bool:
    """Whether a part is of a kind and its data starts with a name."""
    return part.kind == kind and content.startswith(name, part.body, part.end)


def at_most_one(parts: list[FilePart]) -> FilePart | None:
    """The part with the packet. Of several it would be unclear which one counts."""
    if len(parts) > 1:
        raise NotEmbeddableError("the file has more than one packet")
    return parts[0] if parts else None
