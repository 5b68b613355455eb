"""One split of a data set, from the first line that is not done to the note that it is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os.path import realpath
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.files.words import without_surrogates
from omnicap_cli.core.tokens.text_tokens import TokenizersDisagreeError
from omnicap_cli.core.tokens.training_input import TrainingFormat, TrainingInput
from omnicap_cli.datasets.splits import Split, SplitNote
from omnicap_cli.datasets.tokenizing.counting import MAX_LINE_BYTES, RecordCounter, too_long_line
from omnicap_cli.datasets.tokenizing.data_file import DataFile, lines
from omnicap_cli.datasets.tokenizing.media_sizes import MediaSizes
from omnicap_cli.datasets.tokenizing.split_state import own_split_state, remove_split
from omnicap_cli.datasets.tokenizing.split_writer import SplitWriter
from omnicap_cli.errors import OmnicapError

_BOM: Final = b"\xef\xbb\xbf"


class StoppedError(Exception):
    """The user wants it to end. What was done is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is the same for every split of a data set."""

    data: DataFile
    format: TrainingFormat
    image_root: str | None
    max_length: int | None
    verify_images: bool

    def settings(self, input: TrainingInput, num_splits: int) -> dict[str, Any]:
        """All that the output hangs on, as it comes back from a file."""
        root = self.image_root and realpath(self.image_root)
        own = {"image_root": root, "max_length": self.max_length, "verify_images": self.verify_images}
        found = {"data": self.data.digest, "splits": num_splits, **input.settings(), **own}
        settings: dict[str, Any] = orjson.loads(orjson.dumps(without_surrogates(found)))
        return settings


class Step(NamedTuple):
    """What was done since the last one."""

    num_in: int
    num_rejected: int


class SplitRunner:
    """Makes splits, one after the other."""

    def __init__(
        self, job: Job, input: TrainingInput, *, tell: Callable[[Step], None], warn: Callable[[str], None]
    ) -> None:
        """`tell` hears about progress, and may raise StoppedError."""
        self._job, self._input, self._tell, self._warn = job, input, tell, warn
        if not self._input.text.is_fast:
            warn(f"text is counted slowly, by the model's tokenizer itself: {self._input.text.why_slow}")

    def run(self, split: Split) -> SplitNote:
        """Make a split, or only read its note if that is done.

        Raises UsageError where one with other settings is there, JournalLockedError, JournalWriteError, and what
        `tell` raises.
        """
        with hold_lock(split.lock, what=split.output):
            state = own_split_state(split, self._job.settings(self._input, split.num_splits))
            if state.note:
                split.checkpoint.unlink(missing_ok=True)
                self._tell(Step(state.note.num_in, state.note.num_rejected))
                return state.note
            if state.reason:
                self._warn(f"{state.reason}: it is made again")
                remove_split(split)
            elif self._input.text.is_fast and state.is_slow:
                self._input = TrainingInput(self._job.format, fast=False)
            try:
                return self._make(split)
            except TokenizersDisagreeError as error:
                why = f"the fast way of counting text is wrong for this data ({error})"
                self._warn(f"{why}: {split.title} is counted again, slowly, by the model's tokenizer itself")
                remove_split(split)
                self._input = TrainingInput(self._job.format, fast=False)
                return self._make(split)

    def _make(self, split: Split) -> SplitNote:
        data, job = self._job.data, self._job
        counter = RecordCounter(
            self._input, MediaSizes(job.image_root, verify=job.verify_images), max_length=job.max_length
        )
        settings = job.settings(self._input, split.num_splits)
        writer = SplitWriter(split, settings, is_fast=self._input.text.is_fast)
        try:
            with open(data.path, "rb", buffering=1 << 20) as file:
                wanted = split.lines_of(data.num_lines)
                done = writer.progress
                self._tell(Step(done.num_in, done.num_rejected))
                file.seek(done.offset if done.num_lines else data.offset_of(wanted.start))
                self._count(file, wanted[done.num_lines :], counter, writer)
                data.check_unchanged()
                return writer.finish(file.tell())
        except OSError as error:
            raise OmnicapError(f"can't read {data.path}: {error.strerror}") from error
        finally:
            writer.close()

    def _count(self, file: BinaryIO, wanted: range, counter: RecordCounter, writer: SplitWriter) -> None:
        done = writer.progress
        told = Step(done.num_in, done.num_rejected)
        for number, line in zip(wanted, lines(file, len(wanted), max_bytes=MAX_LINE_BYTES), strict=True):
            done.num_lines += 1
            if number == 0 and line is not None:
                line = line.removeprefix(_BOM).strip()
            if line is None:
                writer.add(too_long_line(number + 1))
            elif line:
                writer.add(counter.count(line, number + 1))
            if writer.is_due:
                self._job.data.check_unchanged()  # else a checkpoint would vouch for what is in no file any more
                writer.save(file.tell())
                try:
                    self._tell(Step(done.num_in - told.num_in, done.num_rejected - told.num_rejected))
                except StoppedError:
                    writer.checkpoint(file.tell())
                    raise
                told = Step(done.num_in, done.num_rejected)
        self._tell(Step(done.num_in - told.num_in, done.num_rejected - told.num_rejected))
