"""What comes on the standard input, line by line as soon as it is there. It knows nothing of what a line names."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from omnicap_cli.errors import OmnicapError

_BLOCK_BYTES: Final = 1 << 20
_MAX_LINE_BYTES: Final = 1 << 26


def split_stream(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """The pieces of a stream as soon as they come, empty ones left out."""
    rest, num_bytes, mark = [b""], 0, codecs.BOM_UTF8  # a line that comes in many blocks is put together once
    block = separator
    while block:
        block = _read_available(stream)
        first, *pieces = block.split(separator) if block else (b"", b"")  # the end is the end of a line too
        rest.append(first)
        num_bytes += len(first)
        if num_bytes > _MAX_LINE_BYTES:
            raise OmnicapError(
                f"the standard input has a line of more than {_MAX_LINE_BYTES:,} bytes",
                hint="Names that end with NUL (find -print0) need -0.",
            )
        for piece in pieces:
            line = b"".join(rest).removeprefix(mark)
            rest, num_bytes, mark = [piece], len(piece), b""
            if line:
                yield line


def _read_available(stream: BinaryIO) -> bytes:
    """What is there, at least one byte until the end."""
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    try:
        return read(_BLOCK_BYTES)
    except OSError as error:
        raise OmnicapError(f"can't read the standard input: {error.strerror}") from error
