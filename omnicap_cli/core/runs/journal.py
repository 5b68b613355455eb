"""Append-only results that survive whatever stops a run. It knows lines and keys, nothing of pictures or prompts.

A journal is one JSONL file, and that file is the user's output. A line counts if it is a JSON object with a `key` and
a `status`; of several lines with one key the last counts.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import orjson

from omnicap_cli.core.files.atomic import (
    read_errors,
    remove_leftovers,
    replacing,
    sync_folder,
    write_error,
    write_errors,
)
from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.files.outputs import lock_path
from omnicap_cli.core.runs.key_index import KEY_BYTES, KeyIndex
from omnicap_cli.errors import JournalError, JournalWriteError

SYNC_SECONDS: Final = 1.0
JOURNAL_HINT: Final = "Give the JSONL file that `omnicap caption -o` writes."
RECORD_START: Final = b'{"id":"'  # how every record begins
_ATTEMPTS_BITS: Final = 1  # an index value is attempts * 2 + (1 if ok)


@dataclass(frozen=True, slots=True)
class KnownOutcome:
    """What a journal says of a request: how it ended, and after how many attempts."""

    status: Literal["ok", "error"]
    attempts: int


class JournalLine(NamedTuple):
    """One line of a journal: `record` is None where it isn't a record, else `key` is its key in a KeyIndex."""

    offset: int
    raw: bytes
    key: bytes
    record: dict[str, Any] | None


def read_lines(file: BinaryIO) -> Iterator[JournalLine]:
    """Every line of a journal, broken ones too, the last one even without its newline. Offsets in bytes."""
    offset = 0
    for raw in file:
        yield JournalLine(offset, raw, *_parse_line(raw))
        offset += len(raw)


def newest_offsets(file: BinaryIO) -> KeyIndex:
    """Where the last line of each key begins."""
    newest = KeyIndex()
    for line in read_lines(file):
        if line.record is not None:
            newest.set(line.key, line.offset)
    return newest


def _parse_line(raw: bytes) -> tuple[bytes, dict[str, Any] | None]:
    try:
        record = orjson.loads(raw)
        key = bytes.fromhex(record["key"])[:KEY_BYTES]
        whole = len(key) == KEY_BYTES and record["status"] in ("ok", "error")
    except (ValueError, KeyError, TypeError):  # not JSON, or not a record
        return b"", None
    return (key, record) if whole else (b"", None)


@dataclass(slots=True)
class JournalContents:
    """What a journal file holds. After `num_whole_bytes` comes nothing but `torn`, a line without its end."""

    index: KeyIndex
    num_records: int = 0
    num_broken_lines: int = 0
    num_whole_bytes: int = 0
    lacks_newline: bool = False
    torn: bytes = b""

    @property
    def is_foreign(self) -> bool:
        """Whether the file is something else than a journal, even than one killed while it wrote its first line."""
        if self.num_records:
            return False
        return bool(self.num_broken_lines) or not (RECORD_START.startswith(self.torn[: len(RECORD_START)]))

    def known(self, key: str) -> KnownOutcome | None:
        """What is on record for `key` (a hex digest), or None."""
        value = self.index.get(bytes.fromhex(key)[:KEY_BYTES])
        return None if value is None else _unpack_outcome(value)


def read_index(path: Path) -> JournalContents:
    """Read a journal without touching it, about 28 bytes of memory per key; a missing file is an empty one."""
    with read_errors(path, JournalError, hint=JOURNAL_HINT):
        try:
            with path.open("rb", buffering=1 << 20) as file:
                return _index_lines(file)
        except FileNotFoundError:
            return JournalContents(KeyIndex())


def _index_lines(file: BinaryIO) -> JournalContents:
    contents, last = JournalContents(KeyIndex()), JournalLine(0, b"\n", b"", None)
    for last in read_lines(file):
        if last.record is not None:
            attempts = last.record.get("attempts")
            contents.index.set(
                last.key, _pack_outcome(last.record["status"], attempts if isinstance(attempts, int) else 1)
            )
            contents.num_records += 1
        elif last.raw.endswith(b"\n") and not last.raw.isspace():
            contents.num_broken_lines += 1
    whole = last.raw.endswith(b"\n")
    contents.lacks_newline = last.record is not None and not whole
    if whole or contents.lacks_newline:
        contents.num_whole_bytes = file.tell()
    else:
        contents.num_whole_bytes, contents.torn = last.offset, last.raw
    return contents


class Journal:
    """The one writer of a journal file.

    Opening it takes the lock, cuts off a torn last line and indexes what is there (about 28 bytes of memory per
    key). Raises JournalLockedError if another process has it open, JournalError if the file is something else,
    JournalWriteError if it can't be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = _resolve_path(path)
        self.num_broken_lines = 0
        self.num_superseded = 0
        self._index = KeyIndex()
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._sync_error: OSError | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold_lock(lock_path(self.path), what=self.path))
            self._open_file(stack, overwrite=overwrite)
            self._held = stack.pop_all()
        self._syncer = threading.Thread(target=self._sync_each_second, name="journal-sync", daemon=True)
        self._syncer.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(compact=kind is None)

    def __len__(self) -> int:
        """How many requests are on record."""
        return len(self._index)

    def known(self, key: str) -> KnownOutcome | None:
        """What is on record for `key` (a hex digest), or None."""
        value = self._index.get(bytes.fromhex(key)[:KEY_BYTES])
        return None if value is None else _unpack_outcome(value)

    def append(self, key: str, status: Literal["ok", "error"], attempts: int, line: bytes) -> None:
        """Add one record, whole or not at all. Raises JournalWriteError when the disk doesn't take it."""
        if self._sync_error:
            raise write_error(self.path, self._sync_error)
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # the disk filled up in the middle; asking again tells the reason
                written += os.write(self._descriptor, line[written:])
            if written < len(line):
                raise OSError("short write")
        except OSError as error:
            self._truncate(self._size)
            raise write_error(self.path, error) from error
        self._size += len(line)
        short_key = bytes.fromhex(key)[:KEY_BYTES]
        self.num_superseded += self._index.get(short_key) is not None
        self._index.set(short_key, _pack_outcome(status, attempts))
        self._dirty.set()

    def close(self, *, compact: bool = True) -> None:
        """Make everything durable, drop superseded lines if there are any, and let go of the lock.

        `compact` off leaves superseded lines to the next run: there is no time, or no room.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._dirty.set()
        self._syncer.join()
        try:
            self._sync()
            if self._sync_error:
                raise write_error(self.path, self._sync_error)
            if self.num_superseded and compact:
                self._compact_file()
        finally:
            self._held.close()

    def _open_file(self, stack: contextlib.ExitStack, *, overwrite: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if overwrite else 0)
        with write_errors(self.path):
            self._descriptor = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o666)
            stack.callback(os.close, self._descriptor)
            self._load_index()
        remove_leftovers(self.path, is_locked=True)
        sync_folder(self.path.parent)

    def _load_index(self) -> None:
        """Take in every record; end the file after its last whole line."""
        contents = read_index(self.path)
        if contents.is_foreign:
            raise JournalError(
                f"{self.path} exists, and nothing in it is a record of omnicap: it was left alone",
                hint="Choose another -o, or pass --overwrite to replace it.",
            )
        self._index, self._size = contents.index, contents.num_whole_bytes
        self.num_broken_lines = contents.num_broken_lines
        self.num_superseded = contents.num_records - len(contents.index)
        self._truncate(self._size)
        if contents.lacks_newline:
            self._size += os.write(self._descriptor, b"\n")

    def _truncate(self, size: int) -> None:
        """End the file after `size` bytes. Shrinking needs no space, so it works on a full disk."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, size)

    def _sync_each_second(self) -> None:
        while not self._closed.wait(SYNC_SECONDS):
            self._sync()

    def _sync(self) -> None:
        if self._dirty.is_set():
            self._dirty.clear()
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._sync_error = error

    def _compact_file(self) -> None:
        """Write the file again without the lines that a later line replaced; on a full disk leave it as it is."""
        with contextlib.suppress(OSError), replacing(self.path) as target, self.path.open("rb", 1 << 20) as source:
            newest = newest_offsets(source)
            source.seek(0)
            for line in read_lines(source):
                if line.record is None or newest.get(line.key) == line.offset:
                    target.write(line.raw)


def _resolve_path(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself: RuntimeError before Python 3.13
        raise JournalWriteError(f"can't write {path}: {error}", hint="Choose another place with -o.") from error


def _pack_outcome(status: Literal["ok", "error"], attempts: int) -> int:
    return attempts << _ATTEMPTS_BITS | (status == "ok")


def _unpack_outcome(value: int) -> KnownOutcome:
    return KnownOutcome("ok" if value & 1 else "error", value >> _ATTEMPTS_BITS)
