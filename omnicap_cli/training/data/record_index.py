"""A counted data set as arrays: where each record begins, and how long it is as a sequence. It reads no media.

The file is read once; what was found is kept beside the checkpoints, and known again by size and modification time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from array import array
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import orjson

from omnicap_cli.core.files.atomic import writing
from omnicap_cli.core.files.file_state import FileState
from omnicap_cli.core.files.line_index import LineIndex, open_index
from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.errors import OmnicapError

_PACKED: Final = (".gz", ".zst", ".bz2")
_ARRAYS: Final = ("offsets", "sequence_lengths", "num_visual_tokens")
_COUNT_IT: Final = "omnicap tokenize counts a data set, and omnicap merge makes one file of it: train on that."


class DataError(OmnicapError):
    """A data set that can't be trained on as it is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordIndex(LineIndex):
    """The records of a file: arrays of shape (num_records,), since each may be entered at any moment.

    `offsets` are of bytes, `sequence_lengths` in tokens of the whole sequence, `num_visual_tokens` those of pictures
    and clips among them.
    """

    offsets: npt.NDArray[np.int64]
    sequence_lengths: npt.NDArray[np.int32]
    num_visual_tokens: npt.NDArray[np.int32]

    @classmethod
    def open(cls, path: Path, cache: Path) -> RecordIndex:
        """The index of `path`, from the folder `cache` if it is there and of this state of the file.

        Raises DataError where the file can't be used, JournalWriteError where the index can't be kept.
        """
        if path.name.lower().endswith(_PACKED):
            raise DataError(f"{path} is compressed, and is entered at any record", hint="Unpack it first.")
        kept = cache / f"{path.stem}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]}.npz"
        with hold_lock(kept.with_suffix(".lock"), what=kept, waits=True):
            try:
                known = _read_arrays(kept, path)
                return open_index(path, known, partial(_scan_records, path), partial(_write_arrays, kept))
            except OSError as error:
                raise DataError(f"can't read {path}: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self.offsets)

    def record(self, number: int) -> dict[str, Any]:
        """One record. Raises DataError where the file is another one by now."""
        try:
            with open(self.path, "rb") as file:
                file.seek(int(self.offsets[number]))
                record: dict[str, Any] = orjson.loads(file.readline())
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} changed while it was trained on", hint="Start again.") from error
        return record


def _scan_records(path: Path, file: BinaryIO) -> RecordIndex:
    num_bytes, mtime_ns = FileState.of(os.fstat(file.fileno())).content
    offsets, lengths, visual = array("q"), array("i"), array("i")
    offset, digest = 0, hashlib.sha256()
    for number, line in enumerate(file, 1):
        if line.strip():
            length, num_visual = _token_counts(path, number, line)
            offsets.append(offset)
            lengths.append(length)
            visual.append(num_visual)
        offset += len(line)
        digest.update(line)
    return RecordIndex(
        path=str(path.resolve()),
        num_bytes=num_bytes,
        mtime_ns=mtime_ns,
        digest=digest.hexdigest(),
        offsets=np.array(offsets, np.int64),
        sequence_lengths=np.array(lengths, np.int32),
        num_visual_tokens=np.array(visual, np.int32),
    )


def _token_counts(path: Path, number: int, line: bytes) -> tuple[int, int]:
    """Tokens of a record's sequence, and the visual ones among them. Raises DataError."""
    if number == 1 and line.startswith(b"["):
        raise DataError(f"{path} is a JSON array, and not a record on each line", hint=_COUNT_IT)
    try:
        record = orjson.loads(line)  # at once, and not by jsonlines: there may be many millions of lines
        length, visual = record["sequence_length"], record["image_token_num"]
    except ValueError as error:
        raise DataError(f"{path}, line {number:,}: not a record on a line: {error}", hint=_COUNT_IT) from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number:,}: the record has no sequence_length", hint=_COUNT_IT) from error
    if type(length) is not int or type(visual) is not int or not 0 <= visual < length < 1 << 31:
        raise DataError(f"{path}, line {number:,}: {length!r} tokens, {visual!r} of them visual", hint=_COUNT_IT)
    return length, visual


def _read_arrays(kept: Path, path: Path) -> RecordIndex | None:
    """The index that was kept of `path`, of whatever state of it; None where there is none that can be read."""
    with contextlib.suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile), np.load(kept) as arrays:
        num_bytes, mtime_ns = arrays["state"].tolist()
        return RecordIndex(
            path=str(path.resolve()),
            num_bytes=num_bytes,
            mtime_ns=mtime_ns,
            digest=str(arrays["digest"]),
            **{name: arrays[name] for name in _ARRAYS},
        )
    return None


def _write_arrays(kept: Path, index: RecordIndex) -> None:
    state, digest = np.array([index.num_bytes, index.mtime_ns], np.int64), np.array(index.digest)
    with writing(kept) as file:
        np.savez(file, state=state, digest=digest, **{name: getattr(index, name) for name in _ARRAYS})
