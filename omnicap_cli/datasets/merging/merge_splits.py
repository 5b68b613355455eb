"""The splits of a data set as one file: complete, every line checked, nothing twice. It counts no tokens itself.

Each input is read once. What is written on the way is the output already, unless records turn up twice or are sorted.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from omnicap_cli.core.files.atomic import remove_leftovers, replacing, write_errors
from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.files.outputs import check_output, incomplete_error, lock_path
from omnicap_cli.core.files.words import listed
from omnicap_cli.core.runs.run_note import JOURNAL_SUFFIXES
from omnicap_cli.datasets.lengths import LengthCounts
from omnicap_cli.datasets.merging.duplicates import DroppedRecords, Duplicates
from omnicap_cli.datasets.merging.find_splits import SplitFile, find_split_files
from omnicap_cli.datasets.merging.rewriting import ByLength, drop_lines
from omnicap_cli.datasets.merging.split_gaps import find_problems, find_unbegun, unknowable
from omnicap_cli.datasets.merging.split_reader import MergeCounts, PieceReport, read_split_files
from omnicap_cli.datasets.streams import (
    COMPRESSION,
    append,
    compress,
    compression_of,
    copy_runs,
    from_start,
    line_batches,
    open_unnamed,
)
from omnicap_cli.errors import JournalError, OptionError, UsageError

_SUFFIXES: Final = tuple(f"{suffix}{packed}" for suffix in JOURNAL_SUFFIXES for packed in ("", *COMPRESSION))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMergeConfig:
    """Everything that a user decides about a merge of splits. Raises UsageError for what can't be used."""

    inputs: tuple[Path, ...]
    output: Path | None = None
    overwrite: bool = False
    allow_missing: bool = False
    keep_duplicates: bool = False
    sort_by_length: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.output is None and not self.dry_run:
            raise UsageError("no output is named", hint="Name a file with -o, or only count with --stats-only.")
        if self.output and not self.output.name.lower().endswith(_SUFFIXES):
            problem = f"can't be a data set; end the name in {listed(list(_SUFFIXES))}"
            raise OptionError("--output", str(self.output), problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMergeReport:
    """What was merged, or with `written` off would be. All counts are of what was kept, but for those left out.

    `num_without_length` records have no `sequence_length`: theirs are text and pictures together, without template.
    """

    output: str | None = None
    written: bool = False
    num_files: int = 0
    problems: list[str] = field(default_factory=list)
    num_records: int = 0
    num_duplicates: int = 0
    num_broken_lines: int = 0
    broken_lines: dict[str, int] = field(default_factory=dict)
    num_without_length: int = 0
    num_text_tokens: int = 0
    num_image_tokens: int = 0
    num_sequence_tokens: int = 0
    lengths: LengthCounts = field(default_factory=LengthCounts)


def merge_data(config: DataMergeConfig, warn: Callable[[str], None] = lambda _: None) -> DataMergeReport:
    """Join splits into one file, or with `dry_run` only check and count.

    Raises JournalError if an input can't be read, holds no record, changes meanwhile, or is not whole with
    `allow_missing` off; JournalLockedError, JournalWriteError or OptionError if the output can't be written, which
    leaves it as it was.
    """
    parts = find_split_files(config.inputs)
    files = [part.file for part in parts]
    check_output(config.output, files, overwrite=config.overwrite, kind="files")
    problems = [*find_problems(parts), *find_unbegun(filter(Path.is_dir, config.inputs), parts)]
    if problems and not config.allow_missing:
        raise incomplete_error("these are not whole data sets", problems)
    parts = list({part.state[:2]: part for part in reversed(parts)}.values())[::-1]
    for message in [*problems, *unknowable(parts)]:
        warn(message)
    if config.output is None or config.dry_run:
        return _make_report(config, *_count_only(config, parts), problems, len(parts), warn)
    with _sole_writer(config.output):
        # again: only from here on nobody else can make one
        check_output(config.output, files, overwrite=config.overwrite, kind="files")
        return _make_report(config, *_write_merged(config, config.output, parts), problems, len(parts), warn)


def _count_only(config: DataMergeConfig, parts: Sequence[SplitFile]) -> tuple[MergeCounts, DroppedRecords | None]:
    """Read everything, and write nothing; where records may be there twice, all is read once more."""
    tally = MergeCounts()
    with write_errors(Path(tempfile.gettempdir())), contextlib.closing(Duplicates(None)) as duplicates:
        for _, report in read_split_files(parts, tally):
            if not config.keep_duplicates:
                duplicates.observe(report.keys)
        return tally, duplicates.find(_lines_of_records(parts))


def _lines_of_records(parts: Sequence[SplitFile]) -> Iterator[list[bytes]]:
    """The lines of all records once more."""
    for source, report in read_split_files(parts, MergeCounts()):
        content = io.BytesIO()
        _copy_kept(source, report, content)
        content.seek(0)
        yield content.readlines()


def _write_merged(
    config: DataMergeConfig, output: Path, parts: Sequence[SplitFile]
) -> tuple[MergeCounts, DroppedRecords | None]:
    """Put everything into `output`: the records as they come, then without duplicates, by length, compressed."""
    folder, method, tally = output.resolve().parent, compression_of(output), MergeCounts()
    remove_leftovers(output.resolve(), is_locked=True)
    with write_errors(output), contextlib.ExitStack() as stack:
        partial = stack.enter_context(replacing(output))
        target = stack.enter_context(open(partial.name, "r+b", buffering=0))
        plain = stack.enter_context(open_unnamed(folder)) if method else target
        spool = stack.enter_context(open_unnamed(folder)) if config.sort_by_length else plain
        duplicates = stack.enter_context(contextlib.closing(Duplicates(folder)))
        by_length = stack.enter_context(contextlib.closing(ByLength(folder))) if config.sort_by_length else None
        for source, report in stack.enter_context(contextlib.closing(read_split_files(parts, tally))):
            _copy_kept(source, report, spool)
            if not config.keep_duplicates:
                duplicates.observe(report.keys)
            if by_length:
                by_length.observe(report.lengths)
        dropped = duplicates.find(lines for _, lines in line_batches(from_start(spool)))
        if by_length:
            by_length.write(spool, plain, dropped.marks if dropped else None)
        elif dropped:
            drop_lines(spool, dropped.marks)
        if method:
            compress(plain, target, method)
    return tally, dropped


def _copy_kept(source: Any, report: PieceReport, target: IO[bytes]) -> None:
    if not copy_runs(source, report.runs, target):
        raise JournalError("an input was cut off while it was merged", hint="Merge again when nothing writes it.")
    if report.lacks_newline:
        append(target, b"\n")


@contextlib.contextmanager
def _sole_writer(output: Path) -> Iterator[None]:
    """Keep every other writer out, and leave no lock behind."""
    with hold_lock(lock_path(output), what=output):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(f"{output.resolve()}.lock")  # whoever takes it next sees that it is gone, and makes another


def _make_report(
    config: DataMergeConfig,
    tally: MergeCounts,
    dropped: DroppedRecords | None,
    problems: list[str],
    num_files: int,
    warn: Callable[[str], None],
) -> DataMergeReport:
    totals = tally.totals - dropped.totals if dropped else tally.totals
    counts = LengthCounts(tally.lengths - dropped.lengths if dropped else tally.lengths)
    if tally.broken:
        warn(f"left out {tally.broken.total():,} broken lines; the first: {', '.join(tally.first_broken)}")
    if num_without_length := totals["num_lacking"]:
        warn(f"{num_without_length:,} records have no sequence_length: text and picture tokens together stand for it")
    if not counts.num_sequences:
        warn("there are no records")
    return DataMergeReport(
        output=str(config.output) if config.output else None,
        written=config.output is not None and not config.dry_run,
        num_files=num_files,
        problems=problems,
        num_records=counts.num_sequences,
        num_duplicates=dropped.lengths.total() if dropped else 0,
        num_broken_lines=tally.broken.total(),
        broken_lines=dict(tally.broken.most_common()),
        num_without_length=num_without_length,
        num_text_tokens=totals["num_text_tokens"],
        num_image_tokens=totals["num_image_tokens"],
        num_sequence_tokens=counts.num_tokens,
        lengths=counts,
    )
