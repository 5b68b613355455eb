"""The files of one split while they are written: whole lines only, and a note of how far they are.

A process that is killed leaves `NAME_splitI.jsonl.partial`, the same of the rejects, and a checkpoint that tells how
much of both belongs to how much of the input. Whoever goes on cuts them there.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from omnicap_cli.core.files.atomic import remove_leftovers, replacing, sync_folder, write_error
from omnicap_cli.datasets.lengths import LengthCounts
from omnicap_cli.datasets.splits import Split, SplitNote, partial_of
from omnicap_cli.datasets.tokenizing.counting import Counted

_BUFFER_BYTES: Final = 1 << 20
_SAVE_SECONDS: Final = 1.0
_CHECKPOINT_SECONDS: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the lines of a split so far. `offset` is the byte of the data at which the next one begins."""

    offset: int = 0
    num_lines: int = 0
    num_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    num_text_tokens: int = 0
    num_image_tokens: int = 0
    lengths: LengthCounts = field(default_factory=LengthCounts)
    num_in: int = 0

    @property
    def num_rejected(self) -> int:
        """How many records were rejected, for whatever reason."""
        return self.rejected.total()

    def add(self, counted: Counted) -> None:
        """Take in one record."""
        self.num_in += 1
        if counted.counts is None:
            self.rejected[counted.reason or ""] += 1
            return
        self.num_kept += 1
        self.num_text_tokens += counted.counts.token_length
        self.num_image_tokens += counted.counts.image_token_num
        self.lengths.add(counted.counts.sequence_length)

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"rejected": dict(self.rejected), "lengths": self.lengths.pairs()}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Tally:
        """From a checkpoint. Raises TypeError or ValueError where it is none."""
        lengths = LengthCounts.of_pairs(values["lengths"])
        return cls(**values | {"rejected": Counter(values["rejected"]), "lengths": lengths})


class SplitWriter:
    """Writes one split, from where an earlier process left it if it had the same `settings`.

    Raises JournalWriteError where the disk doesn't take something: what a checkpoint covers is kept.
    """

    def __init__(self, split: Split, settings: dict[str, Any], *, is_fast: bool) -> None:
        self.split, self._settings, self._is_fast = split, settings, is_fast
        self.started, self.tally = time.time(), Tally()
        self._files: list[io.FileIO] = []
        self._buffers: list[list[bytes]] = [[], []]
        self._num_buffered = 0
        self._last_save = self._last_checkpoint = time.monotonic()
        self._resume()

    def add(self, counted: Counted) -> None:
        """Take in one record."""
        self.tally.add(counted)
        self._buffers[counted.counts is None].append(counted.line)
        self._num_buffered += len(counted.line)

    @property
    def is_due(self) -> bool:
        """Whether it is time for `save`."""
        return self._num_buffered >= _BUFFER_BYTES or time.monotonic() - self._last_save >= _SAVE_SECONDS

    def save(self, offset: int) -> None:
        """Write what is waiting, and every few seconds a checkpoint; `offset` is where the next line begins."""
        self._flush()
        if time.monotonic() - self._last_checkpoint >= _CHECKPOINT_SECONDS:
            self.checkpoint(offset)

    def checkpoint(self, offset: int) -> None:
        """Make everything durable, and note how far it goes."""
        self._flush()
        self.tally.offset = offset
        sizes = []
        for path, file in zip((self.split.output, self.split.rejects), self._files, strict=True):
            with _writing(path):
                os.fsync(file.fileno())
                sizes.append(file.tell())
        note = {"settings": self._settings, "is_fast": self._is_fast, "started": self.started, "sizes": sizes}
        note["tally"] = self.tally.as_json()
        with _writing(self.split.checkpoint), replacing(self.split.checkpoint) as target:
            target.write(orjson.dumps(note))
        self._last_checkpoint = time.monotonic()

    def finish(self, offset: int) -> SplitNote:
        """Give the files their names, and write the note that says that they are whole."""
        self.checkpoint(offset)
        tally, split = self.tally, self.split
        if tally.num_in != tally.num_kept + tally.num_rejected or tally.lengths.num_sequences != tally.num_kept:
            raise AssertionError(f"{split.title}: {tally.num_in} records came in, and not all went out")
        output_bytes = self._files[0].tell()
        self.close()
        for path in (split.rejects, split.output):
            with _writing(path):
                partial_of(path).replace(path)
                sync_folder(path.parent)
        note = SplitNote(
            name=split.name,
            index=split.index,
            num_splits=split.num_splits,
            settings=self._settings,
            num_lines=tally.num_lines,
            num_in=tally.num_in,
            num_kept=tally.num_kept,
            num_rejected=tally.num_rejected,
            rejected=dict(tally.rejected.most_common()),
            num_text_tokens=tally.num_text_tokens,
            num_image_tokens=tally.num_image_tokens,
            num_sequence_tokens=tally.lengths.num_tokens,
            lengths=tally.lengths.pairs(),
            output_bytes=output_bytes,
            started=self.started,
            ended=time.time(),
        )
        note.write(split.note)
        with _writing(split.checkpoint):
            split.checkpoint.unlink(missing_ok=True)
        return note

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            with contextlib.suppress(OSError):  # a full disk was told of already
                file.close()

    def _resume(self) -> None:
        for path in (self.split.checkpoint, self.split.note):
            remove_leftovers(path, is_locked=True)
        sizes = self._read_checkpoint()
        for path, size in zip((self.split.output, self.split.rejects), sizes, strict=True):
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = partial_of(path)
                if size and not partial.exists() and path.exists():  # it was killed between two names
                    path.replace(partial)
                self._files.append(io.FileIO(partial, "r+" if size else "w"))
                self._files[-1].truncate(size)
                self._files[-1].seek(size)

    def _read_checkpoint(self) -> list[int]:
        """How many bytes of both files an earlier process vouches for; takes over its tally."""
        try:
            note = orjson.loads(self.split.checkpoint.read_bytes())
            if (note["settings"], note["is_fast"]) != (self._settings, self._is_fast):
                return [0, 0]
            tally, sizes, started = Tally.of_json(note["tally"]), note["sizes"], note["started"]
            for path, size in zip((self.split.output, self.split.rejects), sizes, strict=True):
                existing = partial_of(path) if partial_of(path).exists() else path
                if size and existing.stat().st_size < size:
                    return [0, 0]
        except (OSError, ValueError, TypeError, KeyError):  # none, or no use
            return [0, 0]
        self.tally, self.started = tally, started
        return list(sizes)

    def _flush(self) -> None:
        for path, file, buffer in zip((self.split.output, self.split.rejects), self._files, self._buffers, strict=True):
            if buffer:
                with _writing(path):
                    waiting = memoryview(b"".join(buffer))
                    while waiting:
                        waiting = waiting[file.write(waiting) :]
                buffer.clear()
        self._num_buffered = 0
        self._last_save = time.monotonic()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error
