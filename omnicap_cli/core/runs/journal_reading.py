"""The newest record of each request in a journal: in the order of the file, sorted, or one id's records together.

It knows lines, keys and places in the file, and nothing of the forms into which records are exported.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson  # of every line; with another parser all exports would take several times as long

from omnicap_cli.core.files.atomic import read_errors
from omnicap_cli.core.runs.journal import JOURNAL_HINT, newest_offsets, read_lines
from omnicap_cli.core.runs.key_index import KEY_BYTES, KeyIndex
from omnicap_cli.errors import JournalError, OmnicapError

Record = dict[str, Any]
_SortKey = tuple[str | int, ...]

_BUFFER_BYTES: Final = 1 << 20
_PREFIX_BYTES: Final = 8  # of a key; two that begin alike are rare, and then the whole keys are looked at
_MANY_LINES: Final = 20_000
_NUMBERED: Final = re.compile(r"#(?:page|row|line)=([0-9]{1,15})\Z")


class JournalEntry(NamedTuple):
    """A record, the line that it stands on (newline included, if it has one), and where that begins in the file."""

    offset: int
    raw: bytes
    record: Record


class JournalReader:
    """A journal as it was when it was opened, even if a run goes on writing it. It is read, and never touched.

    Memory: 8 bytes for each line, and 28 for each key where one has two lines; what sorting needs is on the disk.
    Raises JournalError where the file can't be read, is no journal, or was replaced in the middle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_records = 0
        self.num_broken_lines = 0
        self._is_scanned = False
        self._is_clean = False  # every line is a record, and no key has two
        self._newest: KeyIndex | None = None  # where each key's last line begins; None where no key has two lines
        self._file, self._num_bytes = _open_journal(path)

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def scan(self, observe: Callable[[JournalEntry], object] | None = None) -> None:
        """Read it all once, to know which lines count. `observe` gets every record, also those that don't."""
        prefixes, num_other_lines, num_broken_lines = bytearray(), 0, 0
        for offset, raw, key, record in read_lines(self._from_start()):
            if record is not None:
                prefixes += key[:_PREFIX_BYTES]
                if observe:
                    observe(JournalEntry(offset, raw, record))
            else:
                num_other_lines += 1
                num_broken_lines += raw.endswith(b"\n") and not raw.isspace()
        if num_broken_lines and not prefixes:
            raise JournalError(f"{self.path} is not a journal: nothing in it is a record of omnicap")
        self.num_records, self.num_broken_lines = len(prefixes) // _PREFIX_BYTES, num_broken_lines
        if _has_repeats(prefixes):
            del prefixes  # before the index needs more
            self._newest = newest_offsets(self._from_start())
            self.num_records = len(self._newest)
        self._is_clean = self._newest is None and not num_other_lines
        self._is_scanned = True

    def entries(self, *, sort: bool = False, grouped: bool = False) -> Iterator[JournalEntry]:
        """The newest record of each key, in the order of the file.

        With `sort` by id (pages by their number), then type, style and language. With `grouped` all records of an id
        follow the first one. Neither costs more than one more pass where they stand in that order already.
        """
        if not self._is_scanned:
            self.scan()
        key = _sort_key if sort else _FirstOfId() if grouped else None
        if key is None or self._is_in_order(key):
            return self._in_file_order()
        return self._in_order_of(key)

    def records(self, *, sort: bool = False, grouped: bool = False) -> Iterator[Record]:
        """As `entries`, the records alone."""
        return (entry.record for entry in self.entries(sort=sort, grouped=grouped))

    def _from_start(self) -> io.BufferedReader:
        return io.BufferedReader(_Snapshot(self._file.fileno(), self._num_bytes, self.path), _BUFFER_BYTES)

    def _in_file_order(self) -> Iterator[JournalEntry]:
        return self._all_in_file_order() if self._is_clean else self._newest_in_file_order()

    def _all_in_file_order(self) -> Iterator[JournalEntry]:
        """Where every line counts, there is no need to look at keys."""
        offset = num_records = 0
        try:
            for raw in self._from_start():
                yield JournalEntry(offset, raw, orjson.loads(raw))
                offset += len(raw)
                num_records += 1
        except orjson.JSONDecodeError as error:
            raise _replaced_error(self.path) from error
        if num_records != self.num_records:
            raise _replaced_error(self.path)

    def _newest_in_file_order(self) -> Iterator[JournalEntry]:
        num_records = 0
        for offset, raw, key, record in read_lines(self._from_start()):
            if record is not None and (self._newest is None or self._newest.get(key) == offset):
                num_records += 1
                yield JournalEntry(offset, raw, record)
        if num_records != self.num_records:
            raise _replaced_error(self.path)

    def _is_in_order(self, key: Callable[[JournalEntry], _SortKey]) -> bool:
        return all(first <= second for first, second in itertools.pairwise(map(key, self._in_file_order())))

    def _in_order_of(self, key: Callable[[JournalEntry], _SortKey]) -> Iterator[JournalEntry]:
        """By `key`, equal ones in the order of the file. Keys and places are sorted in a temporary database."""
        import sqlite3  # only here: few exports are sorted, and it takes a while to load

        try:
            # without a name it is a file for temporary data, which the system removes whatever happens
            with contextlib.closing(sqlite3.connect("")) as database:
                database.execute("PRAGMA journal_mode = OFF")
                for offset, num_bytes in _sorted_places(database, key, self._in_file_order()):
                    yield self._entry_at(offset, num_bytes)
        except sqlite3.Error as error:
            hint = "Sorting needs room for temporary files: point the variable TMPDIR to a folder with more."
            raise OmnicapError(f"can't sort {self.path}: {error}", hint=hint) from error

    def _entry_at(self, offset: int, num_bytes: int) -> JournalEntry:
        with read_errors(self.path, JournalError, hint=JOURNAL_HINT):
            raw = os.pread(self._file.fileno(), num_bytes, offset)
        try:
            return JournalEntry(offset, raw, orjson.loads(raw))
        except ValueError as error:
            raise _replaced_error(self.path) from error


class NewestRecords:
    """Which record of a subject (a picture and what was asked of it, say) counts: the last, or the last without error.

    Two of one subject have different keys where the picture or the model changed between runs. 28 bytes of memory each.
    """

    def __init__(self) -> None:
        self._offsets = KeyIndex()

    def __len__(self) -> int:
        """How many subjects there are."""
        return len(self._offsets)

    def observe(self, entry: JournalEntry, *subject: str) -> None:
        """There is a record of `subject`; call it in the order of the file."""
        key, is_ok = digest(*subject), entry.record.get("status") == "ok"
        known = self._offsets.get(key)
        if is_ok or known is None or not known & 1:
            self._offsets.set(key, entry.offset << 1 | is_ok)

    def has(self, offset: int, *subject: str) -> bool:
        """Whether the record at `offset` is the one of `subject` that counts."""
        known = self._offsets.get(digest(*subject))
        return known is not None and known >> 1 == offset


def text_of(record: Record, name: str) -> str:
    """A text of a record; empty where there is none, or something else in its place."""
    value = record.get(name)
    return value if isinstance(value, str) else ""


def digest(*texts: str) -> bytes:
    """KEY_BYTES that tell these texts from others."""
    return hashlib.blake2b(repr(texts).encode(), digest_size=KEY_BYTES).digest()


class _Snapshot(io.RawIOBase):
    """The first `num_bytes` of an open file, from the start, whoever else reads or extends it."""

    def __init__(self, descriptor: int, num_bytes: int, path: Path) -> None:
        self._descriptor, self._num_bytes, self._path = descriptor, num_bytes, path
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with read_errors(self._path, JournalError, hint=JOURNAL_HINT):
            content = os.pread(self._descriptor, min(len(buffer), self._num_bytes - self._offset), self._offset)
        buffer[: len(content)] = content
        self._offset += len(content)
        return len(content)


class _FirstOfId:
    """The key that brings one id's records together: where the first of them stands in the file."""

    def __init__(self) -> None:
        self._first = KeyIndex()

    def __call__(self, entry: JournalEntry) -> _SortKey:
        name = digest(text_of(entry.record, "id"))
        first = self._first.get(name)
        if first is None:
            self._first.set(name, entry.offset)
        return (entry.offset if first is None else first,)


def _has_repeats(prefixes: bytearray) -> bool:
    """Whether one of these prefixes, each of _PREFIX_BYTES, is there twice. They may be put into another order."""
    numbers = memoryview(prefixes).cast("Q")
    if len(numbers) < _MANY_LINES:
        return len(set(numbers)) < len(numbers)
    import numpy  # only here: to load it takes a third as long as a small export in all

    ordered = numpy.frombuffer(numbers, numpy.uint64)
    ordered.sort()
    return bool((ordered[1:] == ordered[:-1]).any())


def _sort_key(entry: JournalEntry) -> _SortKey:
    """Page 2 of a document comes before its page 10."""
    record = entry.record
    name = text_of(record, "id")
    match = _NUMBERED.search(name) if "#" in name else None
    base, number = (name[: match.start()], int(match[1])) if match else (name, 0)
    return base, number, name, text_of(record, "type"), text_of(record, "style"), text_of(record, "lang")


def _sorted_places(
    database: Any, key: Callable[[JournalEntry], _SortKey], entries: Iterator[JournalEntry]
) -> Iterator[tuple[int, int]]:
    """Offset and length of each line, sorted. SQLite compares texts by their UTF-8 bytes, which is Python's order."""
    rows = ((*key(entry), entry.offset, len(entry.raw)) for entry in entries)
    first = next(rows, None)
    if first is None:
        return
    names = [f"column_{number}" for number in range(len(first))]
    *_keys, offset, num_bytes = names
    database.execute(f"CREATE TABLE lines ({', '.join(names)})")
    insert = f"INSERT INTO lines VALUES ({', '.join('?' for _ in names)})"
    database.executemany(insert, itertools.chain([first], rows))
    yield from database.execute(f"SELECT {offset}, {num_bytes} FROM lines ORDER BY {', '.join(names)}")


def _open_journal(path: Path) -> tuple[io.FileIO, int]:
    """The file and its size in bytes."""
    with read_errors(path, JournalError, hint=JOURNAL_HINT):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe can't be read twice
            raise JournalError(f"{path} is not a file", hint=JOURNAL_HINT)
        file = io.FileIO(path)
        return file, os.fstat(file.fileno()).st_size


def _replaced_error(path: Path) -> JournalError:
    return JournalError(f"{path} was replaced or cut while it was read", hint="Run it again.")
