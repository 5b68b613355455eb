"""Journals joined into one, a record for each key. It knows lines and keys; whether all are there, `completeness` does.

Each journal is read twice: first to choose a line for each key, then to copy the chosen ones. Between the two only
about 28 bytes for each key and one for each line are kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from omnicap_cli.core.files.atomic import read_errors, remove_leftovers, replacing, write_errors
from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.files.outputs import check_output, incomplete_error, lock_path
from omnicap_cli.core.files.words import listed
from omnicap_cli.core.runs.journal import JournalContents, read_lines
from omnicap_cli.core.runs.key_index import KeyIndex
from omnicap_cli.core.runs.run_note import JOURNAL_SUFFIXES, RunMeta
from omnicap_cli.core.runs.shard_gaps import (
    Gaps,
    JournalSource,
    common_folder,
    common_settings,
    find_differences,
    find_gaps,
    read_sources,
)
from omnicap_cli.core.runs.status import RecordKinds
from omnicap_cli.errors import JournalError, OptionError, UsageError

_DROPPED: Final = 0  # the fate of a line; of one that is kept it is 1 + the number of how its record ended
_OK: Final = 1
_NOT_WHOLE: Final = "the journals are not one whole run"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """Everything that a user decides about a merge. Raises UsageError for what can't be used.

    `command` is for the note beside the output.
    """

    inputs: tuple[Path, ...]
    output: Path | None = None
    overwrite: bool = False
    allow_missing: bool = False
    dry_run: bool = False
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.output is None and not self.dry_run:
            raise UsageError("no output is named", hint="Name a file with -o, or only count with --dry-run.")
        if self.output and self.output.suffix.lower() not in JOURNAL_SUFFIXES:
            problem = f"can't be a journal; end the name in {' or '.join(JOURNAL_SUFFIXES)}"
            raise OptionError("--output", str(self.output), problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What was merged, or with `written` off would be. The counts of records are of those that were kept.

    `num_duplicates` records gave way to another of the same key. `num_shards` is what the shards say that there are,
    None if they disagree or there are none.
    """

    output: str | None = None
    written: bool = False
    num_journals: int = 0
    num_shards: int | None = None
    missing_shards: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_records: int = 0
    num_ok: int = 0
    num_failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    num_duplicates: int = 0
    num_broken_lines: int = 0


def merge_journals(config: MergeConfig, warn: Callable[[str], None] = lambda _: None) -> MergeReport:
    """Join journals into one that `omnicap caption -o` can go on from, or with `dry_run` only count.

    Of several records with one key one is kept: with a caption rather than an error, else the one given last. Raises
    JournalError if an input is no journal, or the run is not whole and `allow_missing` is off; JournalLockedError,
    JournalWriteError or OptionError if the output can't be written, which leaves it as it was.
    """
    sources = read_sources(config.inputs)
    files = [source.file for source in sources]
    check_output(config.output, files, overwrite=config.overwrite)
    gaps = find_gaps(sources)
    if gaps.problems and not config.allow_missing:
        raise incomplete_error(_NOT_WHOLE, gaps.problems)
    sources = list({(each.file.st_dev, each.file.st_ino): each for each in sources}.values())
    for message in [*gaps.problems, *find_differences(sources), *_doubts(sources)]:
        warn(message)
    if config.output is None or config.dry_run:
        return _make_merge_report(config, _read_journals(sources, config, gaps, warn), gaps)
    started = time.time()
    with hold_lock(lock_path(config.output), what=config.output):
        # again: only from here on nobody else can make one
        check_output(config.output, files, overwrite=config.overwrite)
        ledger = _read_journals(sources, config, gaps, warn)
        _write_kept_lines(config.output, ledger)
        report = _make_merge_report(config, ledger, gaps)
        _make_note(config, ledger, gaps, report, started=started).write(config.output)
    return report


def _read_journals(
    sources: Sequence[JournalSource], config: MergeConfig, gaps: Gaps, warn: Callable[[str], None]
) -> _LineFates:
    """All lines; what they lack becomes a problem. Raises JournalError."""
    ledger = _LineFates(sources, warn)
    if ledger.losses and not config.allow_missing:
        raise incomplete_error(_NOT_WHOLE, ledger.losses)
    for loss in ledger.losses:
        warn(loss)
    gaps.problems.extend(ledger.losses)
    return ledger


class _LineFates:
    """What becomes of each line of the journals: it reads them all once, in the order in which they are given."""

    def __init__(self, sources: Sequence[JournalSource], warn: Callable[[str], None]) -> None:
        self.fates = bytearray()
        self.kinds = RecordKinds()
        self.lines_of: list[tuple[JournalSource, range]] = []  # of each journal its lines among those of all
        self.losses: list[str] = []  # what was on record once
        self.num_read = self.num_broken_lines = self.num_lost = 0
        self._lines = KeyIndex()
        for source in sources:
            with _open_source(source) as file:
                self._read_journal(source, file, warn)

    def _read_journal(self, source: JournalSource, file: BinaryIO, warn: Callable[[str], None]) -> None:
        contents, first_line = JournalContents(KeyIndex()), len(self.fates)
        for line in read_lines(file):
            self.fates.append(_DROPPED)
            if line.record is not None:
                contents.num_records += 1
                self._keep_better(line.key, 1 + self.kinds.number(line.record))
            elif not line.raw.endswith(b"\n"):
                contents.torn = line.raw
            elif not line.raw.isspace():
                contents.num_broken_lines += 1
        if contents.is_foreign:
            raise JournalError(f"{source.path} is not a journal: nothing in it is a record of omnicap")
        self.lines_of.append((source, range(first_line, len(self.fates))))
        self.num_read += contents.num_records
        self._warn_of_losses(source, contents, warn)

    def _keep_better(self, key: bytes, fate: int) -> None:
        """Keep the line that was read last, unless an earlier one of its key has a caption and it has none."""
        before = self._lines.get(key)
        if before is not None:
            if self.fates[before] == _OK and fate != _OK:
                return
            self.fates[before] = _DROPPED
        self.fates[-1] = fate
        self._lines.set(key, len(self.fates) - 1)

    def _warn_of_losses(self, source: JournalSource, contents: JournalContents, warn: Callable[[str], None]) -> None:
        """Warn of what is not in a journal though it should be."""
        num_broken = contents.num_broken_lines + bool(contents.torn.strip())
        if num_broken:
            warn(f"{source.path}: left out {num_broken:,} lines that are no records")
        num_noted = source.meta.num_handled if source.meta else 0
        if contents.num_records < num_noted:
            self.losses.append(f"{source.path}: {contents.num_records:,} records, but its note tells of {num_noted:,}")
        self.num_broken_lines += num_broken
        self.num_lost += max(0, num_noted - contents.num_records)


def _write_kept_lines(output: Path, ledger: _LineFates) -> None:
    """Copy the lines that are kept, shards in their order, other journals after them as given."""
    remove_leftovers(output.resolve(), is_locked=True)
    with write_errors(output), replacing(output) as target:
        for source, lines in sorted(ledger.lines_of, key=lambda each: each[0].place):
            target.writelines(_lines_to_keep(source, lines, ledger.fates))


def _lines_to_keep(source: JournalSource, lines: range, fates: bytearray) -> Iterator[bytes]:
    """The lines of a journal that are kept, each with its newline. What was added to it meanwhile is not read."""
    num_left = len(lines)
    with _open_source(source) as file:
        for number, raw in zip(lines, file, strict=False):
            num_left -= 1
            if fates[number]:
                yield raw if raw.endswith(b"\n") else raw + b"\n"
    if num_left:
        raise _changed_error(source)


@contextlib.contextmanager
def _open_source(source: JournalSource) -> Iterator[BinaryIO]:
    """A journal, open; it must be the file whose note was read. Raises JournalError."""
    with read_errors(source.path, JournalError), source.path.open("rb", buffering=1 << 20) as file:
        if not os.path.samestat(os.fstat(file.fileno()), source.file):
            raise _changed_error(source)
        yield file


def _changed_error(source: JournalSource) -> JournalError:
    return JournalError(f"{source.path} changed while it was merged", hint="Merge again when nothing writes it.")


def _doubts(sources: Sequence[JournalSource]) -> Iterator[str]:
    """Of plain runs nobody knows how many belong together."""
    plain = [str(source.path) for source in sources if not source.shard]
    if plain:
        yield f"no note of a shard is beside {listed(plain)}: whether all journals are there, nobody knows"


def _make_merge_report(config: MergeConfig, ledger: _LineFates, gaps: Gaps) -> MergeReport:
    counts = {number: ledger.fates.count(number + 1) for number in range(len(ledger.kinds))}
    num_records = sum(counts.values())
    shard_counts = {source.shard.num_shards for source, _ in ledger.lines_of if source.shard}
    return MergeReport(
        output=str(config.output) if config.output else None,
        written=config.output is not None and not config.dry_run,
        num_journals=len(ledger.lines_of),
        num_shards=shard_counts.pop() if len(shard_counts) == 1 else None,
        missing_shards=[str(shard) for shard in gaps.missing],
        problems=gaps.problems,
        num_records=num_records,
        num_ok=counts[0],
        num_failed=num_records - counts[0],
        errors=ledger.kinds.errors(counts),
        num_duplicates=ledger.num_read - num_records,
        num_broken_lines=ledger.num_broken_lines,
    )


def _make_note(config: MergeConfig, ledger: _LineFates, gaps: Gaps, report: MergeReport, *, started: float) -> RunMeta:
    """What is noted beside the output: the merge, as if it had been the run."""
    sources = [source for source, _ in ledger.lines_of]
    is_whole = not gaps.missing and not gaps.unfinished and not ledger.num_lost
    num_left = None if gaps.num_left is None else gaps.num_left + ledger.num_lost
    return RunMeta(
        state="finished" if is_whole else "interrupted",
        command=list(config.command),
        settings=common_settings(sources),
        folder=common_folder(sources),
        started=started,
        ended=time.time(),
        num_requests=None if num_left is None else report.num_records + num_left,
        num_handled=report.num_records,
        num_failed=report.num_failed,
    )
