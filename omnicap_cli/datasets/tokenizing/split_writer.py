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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from omnicap_cli.core.files.atomic import remove_leftovers, sync_folder, write_errors, writing
from omnicap_cli.datasets.lengths import LengthCounts
from omnicap_cli.datasets.splits import Split, SplitNote, partial_of
from omnicap_cli.datasets.streams import append
from omnicap_cli.datasets.tokenizing.counting import Counted

_BUFFER_BYTES: Final = 1 << 20
_SAVE_SECONDS: Final = 1.0
_CHECKPOINT_SECONDS: Final = 5.0


@dataclass(slots=True, kw_only=True)
class SplitProgress:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a process vouches for: so many bytes (`sizes`) of the output and of the rejects belong to its `tally`.

    `settings` are all that the result hangs on; `is_fast` tells that text was counted the fast way.
    """

    settings: dict[str, Any]
    is_fast: bool
    started: float
    sizes: tuple[int, int]
    tally: SplitProgress

    def write(self, path: Path) -> None:
        """Put it at `path`. Raises JournalWriteError."""
        with writing(path) as file:
            file.write(msgspec.json.encode(self, enc_hook=LengthCounts.pairs))

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """The checkpoint at `path`, None where there is none, or none of use."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls, dec_hook=_read_counts)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None


def _read_counts(kind: type, values: Any) -> LengthCounts | Counter[str]:
    return LengthCounts.of_pairs(values) if kind is LengthCounts else Counter(values)


class SplitWriter:
    """Writes one split, from where an earlier process left it if it had the same `settings`.

    Raises JournalWriteError where the disk doesn't take something: what a checkpoint covers is kept.
    """

    def __init__(self, split: Split, settings: dict[str, Any], *, is_fast: bool) -> None:
        self.split, self._settings, self._is_fast = split, settings, is_fast
        self._paths = (split.output, split.rejects)
        self.started, self.progress = time.time(), SplitProgress()
        self._files: list[io.FileIO] = []
        self._buffers: list[list[bytes]] = [[], []]
        self._num_buffered = 0
        self._last_save = self._last_checkpoint = time.monotonic()
        self._resume()

    def add(self, counted: Counted) -> None:
        """Take in one record."""
        self.progress.add(counted)
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
        self.progress.offset = offset
        sizes = []
        for path, file in zip(self._paths, self._files, strict=True):
            with write_errors(path):
                os.fsync(file.fileno())
                sizes.append(file.tell())
        Checkpoint(
            settings=self._settings,
            is_fast=self._is_fast,
            started=self.started,
            sizes=(sizes[0], sizes[1]),
            tally=self.progress,
        ).write(self.split.checkpoint)
        self._last_checkpoint = time.monotonic()

    def finish(self, offset: int) -> SplitNote:
        """Give the files their names, and write the note that says that they are whole."""
        self.checkpoint(offset)
        done, split = self.progress, self.split
        if done.num_in != done.num_kept + done.num_rejected or done.lengths.num_sequences != done.num_kept:
            raise AssertionError(f"{split.title}: {done.num_in} records came in, and not all went out")
        output_bytes = self._files[0].tell()
        self.close()
        for path in reversed(self._paths):
            with write_errors(path):
                partial_of(path).replace(path)
                sync_folder(path.parent)
        note = SplitNote(
            name=split.name,
            index=split.index,
            num_splits=split.num_splits,
            settings=self._settings,
            num_lines=done.num_lines,
            num_in=done.num_in,
            num_kept=done.num_kept,
            num_rejected=done.num_rejected,
            rejected=dict(done.rejected.most_common()),
            num_text_tokens=done.num_text_tokens,
            num_image_tokens=done.num_image_tokens,
            num_sequence_tokens=done.lengths.num_tokens,
            lengths=done.lengths.pairs(),
            output_bytes=output_bytes,
            started=self.started,
            ended=time.time(),
        )
        note.write(split.note)
        with write_errors(split.checkpoint):
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
        for path, size in zip(self._paths, sizes, strict=True):
            with write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = partial_of(path)
                if size and not partial.exists() and path.exists():  # it was killed between two names
                    path.replace(partial)
                self._files.append(io.FileIO(partial, "r+" if size else "w"))
                self._files[-1].truncate(size)
                self._files[-1].seek(size)

    def _read_checkpoint(self) -> tuple[int, int]:
        """How many bytes of both files an earlier process vouches for; takes over its progress."""
        before = Checkpoint.read(self.split.checkpoint)
        if before is None or (before.settings, before.is_fast) != (self._settings, self._is_fast):
            return 0, 0
        for path, size in zip(self._paths, before.sizes, strict=True):
            with contextlib.suppress(OSError):
                written = partial_of(path) if partial_of(path).exists() else path
                if not size or written.stat().st_size >= size:
                    continue
            return 0, 0
        self.progress, self.started = before.tally, before.started
        return before.sizes

    def _flush(self) -> None:
        for path, file, buffer in zip(self._paths, self._files, self._buffers, strict=True):
            if buffer:
                with write_errors(path):
                    append(file, b"".join(buffer))
                buffer.clear()
        self._num_buffered = 0
        self._last_save = time.monotonic()
