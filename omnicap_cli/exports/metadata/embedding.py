"""An XMP packet's place in the bytes of a picture file, so that the packet changes and nothing else does.

It knows which formats take one: JPEG, PNG and WebP. How, each format's module in `containers` knows; what a packet
says, neither.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from omnicap_cli.exports.metadata.containers.file_parts import NotEmbeddableError, PacketChange
from omnicap_cli.exports.metadata.containers.jpeg import rewrite_jpeg
from omnicap_cli.exports.metadata.containers.png import rewrite_png
from omnicap_cli.exports.metadata.containers.webp import rewrite_webp

_CONTAINERS: Final[dict[bytes, Callable[[bytes, PacketChange], bytes]]] = {
    b"\xff\xd8\xff": rewrite_jpeg,
    b"\x89PNG\r\n\x1a\n": rewrite_png,
    b"RIFF": rewrite_webp,
}
_SIGNED: Final = b"c2pa.assertions"  # in every manifest of Content Credentials


def rewrite_packet(content: bytes, change: PacketChange) -> bytes:
    """The file with `change` applied to its XMP packet; its compressed pixels are only copied.

    Raises NotEmbeddableError where the format takes none, the packet doesn't fit, the file is malformed, or it is
    signed with Content Credentials, which any change makes invalid.
    """
    rewrite = next((found for magic, found in _CONTAINERS.items() if content.startswith(magic)), None)
    if rewrite is None or _SIGNED in content:
        raise NotEmbeddableError("the file is of another format, or signed")
    try:
        return rewrite(content, change)
    except (IndexError, struct.error, zlib.error) as error:  # it ends too early, or counts past 32 bits
        raise NotEmbeddableError("the file is malformed") from error
