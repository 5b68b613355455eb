"""The files of one split while they are written: whole lines only, and a note of how far they are.

A process that is killed leaves `NAME_splitI.jsonl.partial`, the same of the rejects, and a checkpoint that tells how
much of both belongs to how much of the input. Whoever goes on cuts them there.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import Any, Final

from omnicap_cli.core.files.atomic import remove_leftovers, sync_folder, write_errors
from omnicap_cli.datasets.splits import Split, SplitNote, partial_of
from omnicap_cli.datasets.tokenizing.checkpoint import Checkpoint, SplitProgress
from omnicap_cli.datasets.tokenizing.counting import Counted

_BUFFER_BYTES: Final = 1 << 20
_SAVE_SECONDS: Final = 1.0
_CHECKPOINT_SECONDS: Final = 5.0


class SplitWriter:
    """Writes one split, from where an earlier process left it if it had the same `settings`.

    Raises JournalWriteError where the disk doesn't take something: what a checkpoint covers is kept.
    """

    def __init__(self, split: Split, settings: dict[str, Any], *, is_fast: bool) -> None:
        self.split, self._settings, self._is_fast = split, settings, is_fast
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
        for path, file in zip((self.split.output, self.split.rejects), self._files, strict=True):
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
        for path in (split.rejects, split.output):
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
        for path, size in zip((self.split.output, self.split.rejects), sizes, strict=True):
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
        for path, size in zip((self.split.output, self.split.rejects), before.sizes, strict=True):
            with contextlib.suppress(OSError):
                written = partial_of(path) if partial_of(path).exists() else path
                if not size or written.stat().st_size >= size:
                    continue
            return 0, 0
        self.progress, self.started = before.tally, before.started
        return before.sizes

    def _flush(self) -> None:
        for path, file, buffer in zip((self.split.output, self.split.rejects), self._files, self._buffers, strict=True):
            if buffer:
                with write_errors(path):
                    waiting = memoryview(b"".join(buffer))
                    while waiting:
                        waiting = waiting[file.write(waiting) :]
                buffer.clear()
        self._num_buffered = 0
        self._last_save = time.monotonic()
