"""Lines of large files, plain or compressed, read many at a time, and parts of files copied. It knows no records.

Whatever a file holds, of one line no more than MAX_LINE_BYTES and a buffer are in memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

MAX_LINE_BYTES: Final = 32 << 20
TOO_LONG: Final = b"\xff\n"  # stands for a line of more bytes; no text has this one
COMPRESSION: Final = {".gz": "gzip", ".zst": "zstd"}  # by suffix
_BATCH_BYTES: Final = 1 << 16  # small enough to stay in the processor's cache, as the buffers
_BUFFER_BYTES: Final = 1 << 18
_BLOCK_BYTES: Final = 8 << 20


def compression_of(path: Path) -> str | None:
    """How a file of that name is compressed, None if it isn't."""
    return COMPRESSION.get(path.suffix.lower())


@contextlib.contextmanager
def open_decompressed(file: IO[bytes], method: str | None) -> Iterator[Any]:
    """The content of an unbuffered file; several compressed parts, one after the other, are one content.

    Reading damaged content raises an OSError without a number.
    """
    if method is None:
        yield file
        return
    import pyarrow

    if not os.fstat(file.fileno()).st_size:
        raise OSError("it is empty, which nothing compressed is")
    with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), method) as content:
        yield content


def line_batches(file: Any, start: int = 0, end: int = sys.maxsize) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of an unbuffered file that begin in `start` to `end`, and the byte at which each batch of them begins.

    TOO_LONG stands for lines that are; only the last of a file can be without its newline. A file that is read from
    the `start` 0 need not be one that can be entered anywhere.
    """
    clipped = _Clipped(file)
    reader = io.BufferedReader(clipped, _BUFFER_BYTES)
    place = start
    if start:
        file.seek(start - 1)
        place += len(reader.readline()) - 1 + clipped.take_num_dropped()
    while place < end:
        room = min(_BATCH_BYTES, end - place - 1)
        lines = reader.readlines(room) if room else [reader.readline()]
        if not lines or not lines[0]:
            return
        num_bytes = sum(map(len, lines)) + clipped.take_num_dropped()
        # no other can be longer: the first that is makes the batch full; the newline that one may lack counts
        if len(lines[-1]) + (not lines[-1].endswith(b"\n")) > MAX_LINE_BYTES:
            lines[-1] = TOO_LONG
        yield place, lines
        place += num_bytes


def line_blocks(file: Any) -> Iterator[io.BytesIO]:
    """Everything in an unbuffered file, whole lines in blocks; of lines that are too long enough to tell."""
    reader = io.BufferedReader(_Clipped(file), _BUFFER_BYTES)
    while lines := reader.readlines(_BLOCK_BYTES):
        yield io.BytesIO(b"".join(lines))


def from_start(file: IO[bytes]) -> io.FileIO:
    """The same open file once more, unbuffered, at its beginning."""
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return io.FileIO(file.fileno(), closefd=False)


def open_unnamed(folder: Path | None, *, buffering: int = 0) -> IO[bytes]:
    """A file without a name, to be written and read, which the system removes whatever happens. Raises OSError.

    `folder` is on the disk that it takes room on, None for the system's own place.
    """
    return tempfile.TemporaryFile(dir=folder, buffering=buffering)


def copy_runs(source: Any, runs: Sequence[int], target: IO[bytes]) -> bool:
    """Append parts of an unbuffered `source` to `target`: `runs` are an offset and a number of bytes in turns.

    False if `source` ends before. Raises OSError.
    """
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    for offset, num_bytes in zip(runs[::2], runs[1::2], strict=True):
        source.seek(offset)
        while num_bytes:
            num_read = source.readinto(buffer[:num_bytes])
            if not num_read:
                return False
            append(target, buffer[:num_read])
            num_bytes -= num_read
    return True


def append(file: IO[bytes], content: bytes | memoryview) -> None:
    """Write all of `content` to an unbuffered file. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def write_at(file: IO[bytes], content: bytes, offset: int) -> None:
    """Write all of `content` from byte `offset` on. Raises OSError."""
    rest = memoryview(content)
    while rest:
        num_written = os.pwrite(file.fileno(), rest, offset)
        rest, offset = rest[num_written:], offset + num_written


def compress(source: IO[bytes], target: IO[bytes], method: str) -> None:
    """Write the content of `source`, from its beginning, to `target`. Raises OSError."""
    import pyarrow

    with pyarrow.CompressedOutputStream(pyarrow.PythonFile(target, mode="w"), method) as stream:
        shutil.copyfileobj(from_start(source), stream, _BUFFER_BYTES)


class _Clipped(io.RawIOBase):
    """A file without what its lines have beyond MAX_LINE_BYTES, give or take a buffer."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._num_line_bytes = self._num_dropped = 0

    def take_num_dropped(self) -> int:
        """How many bytes were left out since the last call."""
        num_dropped, self._num_dropped = self._num_dropped, 0
        return num_dropped

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while num_bytes := self._file.readinto(buffer):
            block = bytes(buffer[:num_bytes])
            if self._num_line_bytes > MAX_LINE_BYTES:
                end = block.find(b"\n")
                self._num_dropped += num_bytes if end < 0 else end
                if end < 0:
                    continue
                block = block[end:]
                buffer[: len(block)] = block
            last_break = block.rfind(b"\n")
            self._num_line_bytes = len(block) - last_break - 1 + (self._num_line_bytes if last_break < 0 else 0)
            return len(block)
        return 0
