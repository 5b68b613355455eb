"""One export from its configuration to its outcome, for `convert` and `caption -o`.

It knows what all forms have in common: which records there are, where their pictures are found, where the bytes go, and
what the user is told afterwards. It knows no form; `formats` finds them.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from omnicap_cli.core.files.atomic import remove_leftovers, writing
from omnicap_cli.core.runs.journal_reading import JournalEntry, JournalReader, Record, text_of
from omnicap_cli.core.runs.run_note import RunMeta, find_journal
from omnicap_cli.errors import ITEMS_FAILED, ItemError, OptionError
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.formats import FORMATS
from omnicap_cli.exports.paths import PutResult
from omnicap_cli.media.record_pictures import PictureFile, RecordPictures

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NO_PICTURE: Final = "no picture"  # a reason to leave a record out: it isn't found any more
_LOSS_HINT: Final = "; --image-root tells where their paths begin, --image-key which column of parquet holds them"
_NUM_NAMED_CONFLICTS: Final = 3
_CHUNK_BYTES: Final = 1 << 16


@dataclass(slots=True, kw_only=True)
class ExportOutcome:
    """What came of an export: counts of what was written (`unit` says what), and of records left out, by reason.

    Of files, `num_same` were there already, and `num_conflicts` with another content, so that they were left alone;
    `first_conflicts` are a few of those. `first_loss` says why the first picture that can't be had isn't.
    """

    unit: str = "records"
    num_written: int = 0
    num_same: int = 0
    num_conflicts: int = 0
    first_conflicts: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    first_loss: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is not as the journal has it."""
        return ITEMS_FAILED if self.num_conflicts or self.left_out[NO_PICTURE] else 0

    def count_file(self, path: str, result: PutResult, *, is_extra: bool = False) -> bool:
        """Count what came of writing a file, and return whether it is there now. An extra file is none of `unit`."""
        if result == "too long":
            self.left_out["path too long"] += 1
        elif result == "conflict":
            self.num_conflicts += 1
            if len(self.first_conflicts) < _NUM_NAMED_CONFLICTS:
                self.first_conflicts.append(path)
        elif not is_extra:
            self.num_written += result == "written"
            self.num_same += result == "same"
        return result in ("written", "same")

    def summary(self, target: Path | None) -> str:
        """All in one line."""
        parts = [f"{self.num_written:,} {self.unit}" + (f" → {target}" if target else "")]
        if self.num_same:
            parts.append(f"{self.num_same:,} were there already")
        if self.left_out:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.left_out.most_common())
            parts.append(f"{self.left_out.total():,} left out ({reasons})")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """What a form gets to work with. `show` writes to stdout; `pictures` finds those of the records."""

    config: ExportConfig
    reader: JournalReader
    show: Callable[[bytes], object]
    pictures: RecordPictures
    outcome: ExportOutcome = field(default_factory=ExportOutcome)

    def picture_of(self, record: Record) -> PictureFile | None:
        """The picture of a record as a file; None where it can't be had."""
        try:
            return self.pictures.file_of(record)
        except ItemError as error:
            self.outcome.first_loss = self.outcome.first_loss or error.message
            return None

    def entries(self, *, grouped: bool = False) -> Iterator[JournalEntry]:
        """The entries of the journal that are wanted, in the order that is."""
        return itertools.islice(self.reader.entries(sort=self.config.sort, grouped=grouped), self.config.limit)

    def records(self, *, grouped: bool = False) -> Iterator[Record]:
        """As `entries`, the records alone."""
        return (entry.record for entry in self.entries(grouped=grouped))

    def captions_by_picture(self) -> Iterator[list[Record]]:
        """The records of each picture that have a caption, the newest for each prompt; errors alone are counted."""
        for _, group in itertools.groupby(self.records(grouped=True), lambda record: text_of(record, "id")):
            newest: dict[tuple[str, ...], Record] = {}
            for each in group:
                asked = tuple(text_of(each, name) for name in ("type", "style", "lang", "prompt"))
                if each["status"] == "ok" or newest.get(asked, each)["status"] != "ok":
                    newest[asked] = each
            captioned = [
                each for each in newest.values() if each["status"] == "ok" and isinstance(each.get("caption"), str)
            ]
            if len(captioned) < len(newest):
                self.outcome.left_out["errors"] += len(newest) - len(captioned)
            if captioned:
                yield captioned

    def open_output(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Where the bytes go: stdout, or a file that takes the place of the old one once all of it is on the disk.

        Raises JournalWriteError where the disk doesn't take it; then the old file is what it was.
        """
        if self.config.target is None:
            return io.BufferedWriter(_ShownOutput(self.show), _CHUNK_BYTES)
        return self.open_output_file(self.config.target)

    @contextlib.contextmanager
    def open_output_file(self, target: Path) -> Iterator[IO[bytes]]:
        """As `open_output`, for a form that needs a real file."""
        remove_leftovers(target.resolve())
        with writing(target) as file:
            yield file


def export_journal(config: ExportConfig, *, show: Callable[[bytes], object]) -> ExportOutcome:
    """Write a journal in another form. `show` gets what goes to stdout.

    Raises JournalError where the journal can't be read, JournalWriteError where the target can't be written.
    """
    journal = find_journal(config.journal)
    _check_is_no_source(config, journal)
    with JournalReader(journal) as reader:
        meta = RunMeta.read(journal)
        pictures = RecordPictures(
            folders=_picture_folders(config, meta),
            image_key=config.image_key or (meta.settings.get("image_key") if meta else None),
            transfer=config.transfer,
        )
        job = ExportJob(config=config, reader=reader, show=show, pictures=pictures)
        FORMATS[config.form].write(job)
        job.outcome.warnings += _closing_warnings(job, meta)
        return job.outcome


def _picture_folders(config: ExportConfig, meta: RunMeta | None) -> tuple[str, ...]:
    """Where relative paths of pictures may begin: as the user says, else where the run was, else here."""
    if config.image_root is not None:
        return (config.image_root,)
    return (meta.folder, "") if meta and meta.folder else ("",)


def _closing_warnings(job: ExportJob, meta: RunMeta | None) -> Iterator[str]:
    """What is told of any form once it is written."""
    outcome, journal = job.outcome, job.reader.path
    if outcome.num_conflicts:
        more = [] if outcome.num_conflicts == len(outcome.first_conflicts) else ["…"]
        what = f"{outcome.num_conflicts:,} files were there with another content, and were left alone"
        yield f"{what}: {', '.join([*outcome.first_conflicts, *more])} (--overwrite replaces them)"
    if job.reader.num_broken_lines:
        yield f"{job.reader.num_broken_lines:,} broken lines of {journal} were passed over"
    if not job.reader.num_records:
        yield f"{journal} holds no records"
    if meta and meta.state_now != "finished":
        left = f", {meta.num_left:,} requests are left" if meta.num_left else ""
        yield f"the run of {journal} is not finished ({meta.state_now}{left}); this is what there is"
    if lost := outcome.left_out[NO_PICTURE]:
        yield f"{lost:,} pictures were not found{_LOSS_HINT}"
    if outcome.first_loss:
        yield f"the first of them: {outcome.first_loss}"


class _ShownOutput(io.RawIOBase):
    """What a BufferedWriter writes to, so that `show` gets large chunks."""

    def __init__(self, show: Callable[[bytes], object]) -> None:
        super().__init__()
        self._show = show

    def writable(self) -> bool:
        return True

    def write(self, content: ReadableBuffer, /) -> int:
        whole = bytes(content)
        self._show(whole)
        return len(whole)


def _check_is_no_source(config: ExportConfig, journal: Path) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # one of them isn't there, or is a link in a circle
        for source in (journal, RunMeta.path_of(journal)):
            if config.target is not None and os.path.samefile(source, config.target):
                problem = "is the journal itself, or the note beside it"
                raise OptionError("--output", config.output, problem, hint="Choose another name with -o.")
