"""Files of lines written anew: without some of the lines, or by length. It knows how long records are, not what is in
them, and holds no more of them than fit into a buffer.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from omnicap_cli.datasets.streams import from_start, line_batches, open_unnamed, write_at

if TYPE_CHECKING:
    import numpy.typing as npt

    Marks = npt.NDArray[np.bool_]

_MAX_WAITING_BYTES: Final = 64 << 20
_LENGTH_BYTES: Final = 8


def drop_lines(file: IO[bytes], marks: Marks) -> None:
    """Take the lines that have a mark out of an unbuffered file, in its place: no more room is needed. Raises OSError.

    What is kept moves towards the beginning, where it was read before.
    """
    num_read_bytes = num_kept_bytes = num_lines = 0
    for _, lines in line_batches(from_start(file)):
        kept = ~marks[num_lines : num_lines + len(lines)]
        content = b"".join(itertools.compress(lines, kept.tolist()))
        if num_kept_bytes < num_read_bytes or not kept.all():
            write_at(file, content, num_kept_bytes)
        num_lines += len(lines)
        num_read_bytes += sum(map(len, lines))
        num_kept_bytes += len(content)
    os.ftruncate(file.fileno(), num_kept_bytes)


class ByLength:
    """Told the length of each line of a file in their order, it writes these lines shortest first.

    Lines of one length stay in their order. How many bytes each length takes is counted first, so every line goes
    straight to its place. Memory goes with the number of different lengths; those of the lines wait in `folder`, in an
    unnamed file.
    """

    def __init__(self, folder: Path) -> None:
        self._lengths = open_unnamed(folder, buffering=1 << 16)

    def close(self) -> None:
        """Give the disk back."""
        self._lengths.close()

    def observe(self, lengths: array[int]) -> None:
        """Take in the lengths of the next lines. Raises OSError."""
        self._lengths.write(lengths.tobytes())

    def write(self, source: IO[bytes], target: IO[bytes], dropped: Marks | None) -> None:
        """Copy the lines of `source`, but for those that have a mark in `dropped`. Raises OSError."""
        num_bytes: Counter[int] = Counter()
        for length, line in self._kept(source, dropped):
            num_bytes[length] += len(line)
        lengths = sorted(num_bytes)
        starts = itertools.accumulate((num_bytes[length] for length in lengths), initial=0)
        places = dict(zip(lengths, starts, strict=False))
        waiting: dict[int, list[bytes]] = {}
        num_waiting_bytes = 0
        for length, line in self._kept(source, dropped):
            waiting.setdefault(length, []).append(line)
            num_waiting_bytes += len(line)
            if num_waiting_bytes >= _MAX_WAITING_BYTES:
                _write_waiting(target, waiting, places)
                num_waiting_bytes = 0
        _write_waiting(target, waiting, places)

    def _kept(self, source: IO[bytes], dropped: Marks | None) -> Iterator[tuple[int, bytes]]:
        self._lengths.seek(0)
        num_lines = 0
        for _, lines in line_batches(from_start(source)):
            lengths = np.frombuffer(self._lengths.read(len(lines) * _LENGTH_BYTES), np.int64).tolist()
            pairs = zip(lengths, lines, strict=True)
            if dropped is None:
                yield from pairs
            else:
                yield from itertools.compress(pairs, (~dropped[num_lines : num_lines + len(lines)]).tolist())
            num_lines += len(lines)


def _write_waiting(target: IO[bytes], waiting: dict[int, list[bytes]], places: dict[int, int]) -> None:
    """Write what is waiting, and move the places on."""
    for length in sorted(waiting):
        content = b"".join(waiting[length])
        write_at(target, content, places[length])
        places[length] += len(content)
    waiting.clear()
