"""A data set as a file of lines that can be entered anywhere, known by its content. It knows nothing of records."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from omnicap_cli.core.files.atomic import remove_leftovers, writing
from omnicap_cli.core.files.file_state import FileState
from omnicap_cli.core.files.line_index import LineIndex, open_index
from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.datasets.tokenizing.unpacking import unpacked_file, write_lines
from omnicap_cli.errors import OmnicapError, OptionError

_STEP_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile(LineIndex):
    """A file of `num_lines` lines, with or without a line break after the last.

    `breaks[k]` line breaks stand before byte k * 4 MiB: few numbers, however many lines there are.
    """

    num_lines: int
    breaks: list[int]

    @classmethod
    def open(cls, path: Path, index: Path) -> DataFile:
        """The file at `path`, read once to the end; `index` keeps what was found for the next time.

        Raises OptionError where it can't be read, JournalWriteError where the index can't be written.
        """

        def keep(data: DataFile) -> None:
            with writing(index) as file:
                file.write(json.dumps(asdict(data)).encode())  # orjson takes no path that isn't UTF-8

        known = None
        with contextlib.suppress(OSError, ValueError, msgspec.ValidationError):
            known = msgspec.convert(json.loads(index.read_bytes()), cls)
        try:
            return open_index(path, known, lambda file: cls._scan(path, file), keep)
        except OSError as error:
            raise OptionError("DATA", str(path), f"can't be read: {error.strerror}") from error

    @classmethod
    def _scan(cls, path: Path, file: BinaryIO) -> DataFile:
        num_bytes, mtime_ns = FileState.of(os.fstat(file.fileno())).content
        digest, breaks, num_breaks, last = hashlib.sha256(), [], 0, b"\n"
        while chunk := file.read(_STEP_BYTES):
            breaks.append(num_breaks)
            num_breaks += chunk.count(b"\n")
            digest.update(chunk)
            last = chunk[-1:]
        return cls(
            path=str(path.resolve()),
            num_bytes=num_bytes,
            mtime_ns=mtime_ns,
            digest=digest.hexdigest(),
            num_lines=num_breaks + (last != b"\n"),
            breaks=breaks,
        )

    def offset_of(self, line: int) -> int:
        """The byte at which a line (from 0) begins. Raises OSError."""
        if line == 0:
            return 0
        step = max((k for k, breaks in enumerate(self.breaks) if breaks < line), default=0)
        with open(self.path, "rb") as file:
            file.seek(step * _STEP_BYTES)
            chunk = file.read(_STEP_BYTES)
        place = -1
        for _ in range(line - self.breaks[step]):
            place = chunk.find(b"\n", place + 1)
            if place < 0:
                return self.num_bytes
        return step * _STEP_BYTES + place + 1

    def check_unchanged(self) -> None:
        """Raise OmnicapError where the file is another one by now."""
        path = Path(self.path)
        with contextlib.suppress(OSError):
            if self.is_of(path):
                return
        raise OmnicapError(f"{path} changed while it was read", hint="Run it again when nothing writes it.")


def lines(file: BinaryIO, num_lines: int, *, max_bytes: int) -> Iterator[bytes | None]:
    """The next lines without their ends; None for one of more than `max_bytes`, which is passed over."""
    for _ in range(num_lines):
        line = file.readline(max_bytes + 1)
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(_STEP_BYTES)
            yield None
            continue
        yield line.strip()


@contextlib.contextmanager
def open_data(source: str, notes: Path, name: str, stdin: BinaryIO) -> Iterator[DataFile]:
    """The data set that `source` names: a path, or `-` for `stdin`. What is noted of it is in `notes`, under `name`.

    Several processes can use one; what came down a pipe belongs to one alone, and goes with it. Raises OptionError or
    UsageError where it can't be read, JournalWriteError where there is no room, and JournalLockedError.
    """
    index, copy = notes / f"{name}.index.json", notes / f"{name}.stdin.jsonl"
    is_stdin = source == "-"
    with contextlib.ExitStack() as stack:
        if is_stdin:
            stack.enter_context(hold_lock(notes / f"{name}.stdin.lock", what=f"{notes.parent / name}_split*.jsonl"))
            stack.callback(_discard, copy)
        with hold_lock(notes / f"{name}.index.lock", what=index, waits=True):
            remove_leftovers(index, is_locked=True)
            if is_stdin:
                write_lines(source, stdin, copy)
            data = DataFile.open(copy if is_stdin else unpacked_file(source, notes, name), index)
        yield data


def _discard(copy: Path) -> None:
    with contextlib.suppress(OSError):
        copy.unlink()
