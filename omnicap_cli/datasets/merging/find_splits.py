"""Which files a data set is in, told by their names and notes. It reads no record, but for the first one, which tells
whether it is a data set at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from omnicap_cli.core.files.file_state import FileState
from omnicap_cli.datasets.splits import MAX_SPLITS, Split, SplitNote
from omnicap_cli.datasets.streams import compression_of, from_start, line_batches, open_decompressed
from omnicap_cli.errors import JournalError, UsageError

SPLIT_NAME: Final = re.compile(r"(.+)_split([1-9][0-9]{0,5})(\.jsonl(?:\.gz|\.zst)?)")
_HINT: Final = "Give the files that `omnicap tokenize` wrote, or their folder."
NOTED_SUFFIX: Final = ".jsonl"  # what `omnicap tokenize` writes; others were packed later, and have another size


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFile:
    """One file of a data set. `number` (from 1) is that of a split of `name`, None for a file that is called otherwise.

    `note` is what `omnicap tokenize` noted of it, and `note_error` why that can't be read.
    """

    path: Path
    file: os.stat_result
    name: str = ""
    number: int | None = None
    suffix: str = ""
    note: SplitNote | None = None
    note_error: str | None = None

    @property
    def folder(self) -> Path:
        """Where it is, and its note, and the other splits."""
        return self.path.parent

    @property
    def state(self) -> FileState:
        """What tells that it is still the same file, as it was."""
        return FileState.of(self.file)

    @property
    def compression(self) -> str | None:
        """How it is compressed, None if it isn't."""
        return compression_of(self.path)

    @contextlib.contextmanager
    def open_content(self) -> Iterator[Any]:
        """Its content, unbuffered. Raises JournalError if it can't be read, or is another than it was."""
        with (
            open_unchanged(self.path, self.state) as file,
            open_decompressed(from_start(file), self.compression) as content,  # which closes what it was given
        ):
            yield content


@contextlib.contextmanager
def open_unchanged(path: Path, state: FileState) -> Iterator[io.FileIO]:
    """A file, unbuffered. Raises JournalError if it can't be read, or is in another state before or after the block."""
    try:
        with io.FileIO(path) as file:
            _check_state(file, state)
            yield file
            _check_state(file, state)
    except OSError as error:
        problem = error.strerror or f"it is damaged ({error})"
        raise JournalError(f"can't read {path}: {problem}", hint=_HINT) from error


def _check_state(file: io.FileIO, state: FileState) -> None:
    if FileState.of(os.fstat(file.fileno())) != state:
        raise JournalError(f"{file.name} changed while it was merged", hint="Merge again when nothing writes it.")


def holds_training_data(paths: Sequence[Path]) -> bool:
    """Whether these are files of a data set, rather than journals of captions. Raises UsageError where some are each.

    A note or the first record tells; where there is neither, the name.
    """
    verdicts = {path: _is_data(path) for path in paths}
    data, journals = ([path for path, is_data in verdicts.items() if is_data is verdict] for verdict in (True, False))
    if data and journals:
        problem = f"{data[0]} is of a data set, and {journals[0]} a journal of captions"
        raise UsageError(f"these can't be merged: {problem}", hint="Merge one kind at a time.")
    return bool(data)


def find_split_files(paths: Iterable[Path]) -> list[SplitFile]:
    """The files at `paths`, and all splits in the folders there: splits by their number, else as given.

    Raises JournalError for what can't be one.
    """
    parts = [part for path in paths for part in (_split_files_in(path) if path.is_dir() else [_split_file_at(path)])]
    places: dict[object, int] = {}
    for place, part in enumerate(parts):
        places.setdefault(group_of(part), place)
    return sorted(parts, key=lambda part: (places[group_of(part)], part.number or 0))


def _is_data(path: Path) -> bool | None:
    """None where neither a note nor a record tells."""
    if path.is_dir():
        return True
    try:
        part = _split_file_at(path)
    except JournalError:
        return None
    if part.note or part.note_error:
        return True
    record = _first_record(part)
    if record is not None:
        return "conversations" in record
    return True if part.number is not None or part.compression else None


def _first_record(part: SplitFile) -> dict[str, Any] | None:
    """The first that is a record of either kind, if it comes soon."""
    with contextlib.suppress(JournalError), part.open_content() as content:
        for line in next(line_batches(content), (0, []))[1]:
            with contextlib.suppress(ValueError):
                record = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
                if isinstance(record, dict) and ("conversations" in record or "key" in record):
                    return record
    return None


def _split_files_in(folder: Path) -> list[SplitFile]:
    names = sorted(name for name in names_in(folder) if SPLIT_NAME.fullmatch(name))
    if not names:
        raise JournalError(f"{folder} holds no splits of a data set", hint=_HINT)
    return [_split_file_at(folder / name) for name in names]


def names_in(folder: Path) -> list[str]:
    """The names in a folder. Raises JournalError."""
    try:
        return os.listdir(folder)
    except OSError as error:
        raise JournalError(f"can't read {folder}: {error.strerror}") from error


def _split_file_at(path: Path) -> SplitFile:
    try:
        file = path.stat()
    except OSError as error:
        raise JournalError(f"can't read {path}: {error.strerror}", hint=_HINT) from error
    if not stat.S_ISREG(file.st_mode):
        raise JournalError(f"can't read {path}: not a file", hint=_HINT)
    match = SPLIT_NAME.fullmatch(path.name)
    if not match:
        return SplitFile(path=path, file=file)
    name, number, suffix = match[1], int(match[2]), match[3]
    note, error_text = _note_of(split_of(path.parent, name, number)) if suffix == NOTED_SUFFIX else (None, None)
    return SplitFile(path=path, file=file, name=name, number=number, suffix=suffix, note=note, note_error=error_text)


def _note_of(split: Split) -> tuple[SplitNote | None, str | None]:
    """Its note, and why that can't be used."""
    try:
        note = SplitNote.read(split.note)
    except JournalError as error:
        return None, error.message
    if note is None:
        return None, None
    is_sound = note.num_splits in range(split.index + 1, MAX_SPLITS + 1)
    if not is_sound or (note.name, note.index) != (split.name, split.index):
        return None, f"{split.note} is no note of {split.output.name}"
    return note, None


def split_of(folder: Path, name: str, number: int) -> Split:
    """Its files; how many splits there are makes no difference to them."""
    return Split(folder=folder, name=name, index=number - 1, num_splits=number)


def group_of(part: SplitFile) -> object:
    """What the splits of one data set share; a file that is called otherwise is alone."""
    return part.path if part.number is None else (part.folder.resolve(), part.name, part.suffix)
