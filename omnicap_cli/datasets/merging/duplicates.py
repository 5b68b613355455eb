"""Which records are there more than once, found with little memory. It knows rows of numbers, and reads no record.

Each record first leaves only a small key. Where no two keys are the same, as usual, nothing more has to be done; else
those that share theirs are read again and told apart by digests of 128 bits. Keys wait on disk, in unnamed files that
the system removes whatever happens; in memory is a byte for each record, and only if keys are the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from omnicap_cli.datasets.merging.checked_lines import check_lines, digest_of
from omnicap_cli.datasets.streams import append, open_unnamed

if TYPE_CHECKING:
    import numpy.typing as npt

    Marks = npt.NDArray[np.bool_]
    Rows = npt.NDArray[np.int64]

_NUM_PARTITIONS: Final = 64
_MAX_WAITING_ROWS: Final = 1 << 18
_DIGEST_COLUMNS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRecords:
    """Records that are there before them already: a mark for each of all records, and their counts."""

    marks: Marks
    totals: Counter[str]
    lengths: Counter[int]


class Duplicates:
    """Told the keys of all records in their order, it finds those that repeat an earlier one.

    `folder` is where keys wait that are too many for memory, None for the system's own place.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._num_records = 0
        self._rows = _Spill(2, folder)

    def close(self) -> None:
        """Give the disk back."""
        self._rows.close()

    def observe(self, keys: array[int]) -> None:
        """Take in the keys of the next records. Raises OSError."""
        places = np.arange(self._num_records, self._num_records + len(keys))
        self._rows.add(np.column_stack([np.array(keys, np.int64), places]))
        self._num_records += len(keys)

    def find(self, batches: Iterable[list[bytes]]) -> DroppedRecords | None:
        """What to drop, None if nothing. `batches` are the same records once more; not read unless it is needed."""
        suspects = self._suspects()
        if suspects is None:
            return None
        with contextlib.closing(_Spill(_DIGEST_COLUMNS + 5, self._folder)) as rows:
            for place, lines in _marked_lines(batches, suspects):
                rows.add(_rows_of(place, lines))
            return _repeated_among(rows, self._num_records)

    def _suspects(self) -> Marks | None:
        """A mark for each record that shares its key."""
        marks: Marks | None = None
        for rows in self._rows.partitions():
            keys = np.sort(rows[:, 0])
            shared = keys[1:][keys[1:] == keys[:-1]]
            if len(shared):
                marks = np.zeros(self._num_records, np.bool_) if marks is None else marks
                marks[rows[np.isin(rows[:, 0], shared), 1]] = True
        return marks


def _marked_lines(batches: Iterable[list[bytes]], marks: Marks) -> Iterator[tuple[Rows, list[bytes]]]:
    """The lines that have a mark, some at a time, and their places among all."""
    num_before = 0
    for lines in batches:
        here = marks[num_before : num_before + len(lines)]
        if here.any():
            yield num_before + np.flatnonzero(here), list(itertools.compress(lines, here.tolist()))
        num_before += len(lines)


def _rows_of(places: Rows, lines: list[bytes]) -> Rows:
    """For each line its digest, its place, and its counts."""
    checked = check_lines(lines, _never_broken)
    digests = np.frombuffer(b"".join(map(digest_of, lines)), np.int64).reshape(-1, _DIGEST_COLUMNS)
    counts = (checked.text_tokens, checked.image_tokens, checked.lengths, checked.lacks)
    return np.column_stack([digests, places, *(np.array(column, np.int64) for column in counts)])


def _never_broken(place: int, reason: str) -> None:
    raise AssertionError(f"a line that was a record before is none now: {place}, {reason}")


def _repeated_among(spill: _Spill, num_records: int) -> DroppedRecords | None:
    dropped = DroppedRecords(marks=np.zeros(num_records, np.bool_), totals=Counter(), lengths=Counter())
    for rows in spill.partitions():
        rows = rows[np.lexsort(rows[:, :_DIGEST_COLUMNS].T)]  # which leaves equal ones in their order
        same = (rows[1:, :_DIGEST_COLUMNS] == rows[:-1, :_DIGEST_COLUMNS]).all(axis=1)
        places, texts, images, lengths, lacks = rows[1:][same][:, _DIGEST_COLUMNS:].T
        dropped.marks[places] = True
        sums = {"num_text_tokens": texts.sum(), "num_image_tokens": images.sum(), "num_lacking": lacks.sum()}
        dropped.totals.update({name: int(value) for name, value in sums.items()})
        dropped.lengths.update(lengths.tolist())
    return dropped if dropped.lengths else None


class _Spill:
    """Rows of numbers; those whose first column is the same come out together, in the order in which they went in.

    Few stay in memory, more go to disk.
    """

    def __init__(self, num_columns: int, folder: Path | None) -> None:
        self._num_columns, self._folder = num_columns, folder
        self._waiting: list[Rows] = []
        self._num_waiting = 0
        self._files: list[IO[bytes]] = []

    def close(self) -> None:
        """Give the disk back."""
        for file in self._files:
            file.close()

    def add(self, rows: Rows) -> None:
        """Take in rows. Raises OSError."""
        self._waiting.append(rows)
        self._num_waiting += len(rows)
        if self._num_waiting >= _MAX_WAITING_ROWS:
            self._write()

    def partitions(self) -> Iterator[Rows]:
        """All rows, one part after the other. Raises OSError."""
        if not self._files:
            yield self._take_waiting()
            return
        self._write()
        for file in self._files:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            yield np.fromfile(file, np.int64).reshape(-1, self._num_columns)

    def _take_waiting(self) -> Rows:
        rows: Rows = np.concatenate([np.empty((0, self._num_columns), np.int64), *self._waiting])
        self._waiting, self._num_waiting = [], 0
        return rows

    def _write(self) -> None:
        if not self._files:
            self._files = [open_unnamed(self._folder) for _ in range(_NUM_PARTITIONS)]
        rows = self._take_waiting()
        parts = (rows[:, 0] & (_NUM_PARTITIONS - 1)).astype(np.uint8)
        rows = rows[np.argsort(parts, kind="stable")]
        ends = np.cumsum(np.bincount(parts, minlength=_NUM_PARTITIONS))
        for file, some in zip(self._files, np.split(rows, ends[:-1]), strict=True):
            append(file, some.tobytes())
