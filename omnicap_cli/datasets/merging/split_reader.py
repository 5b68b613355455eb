"""All parts of a data set, read one after the other, and what is in them. It writes nothing and compares no records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

from omnicap_cli.core.models.machine import num_cores
from omnicap_cli.datasets.merging.find_splits import SplitFile
from omnicap_cli.datasets.merging.parallel_checks import MAX_NAMED, PieceReport, check_content, pieces_of, reports_of
from omnicap_cli.datasets.streams import line_blocks
from omnicap_cli.errors import JournalError


class CheckedBlock(NamedTuple):
    """An open file, unbuffered, and what to keep of it."""

    source: Any
    report: PieceReport


class MergeCounts:
    """What is in the parts, as their pieces tell one after the other."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.broken: Counter[str] = Counter()
        self.first_broken: list[str] = []

    def add(self, part: SplitFile, num_lines_before: int, report: PieceReport) -> None:
        """Take in the next piece of a part."""
        self.totals.update(report.totals)
        self.lengths.update(report.lengths)
        self.broken.update(report.broken)
        for place, reason in report.first_broken[: MAX_NAMED - len(self.first_broken)]:
            self.first_broken.append(f"{part.path}:{num_lines_before + place + 1} ({reason})")


def read_split_files(parts: Sequence[SplitFile], tally: MergeCounts) -> Generator[CheckedBlock, None, None]:
    """All pieces of all parts, in order. Raises JournalError."""
    pieces = [piece for part in parts if not part.compression for piece in pieces_of(part.path, part.state)]
    is_mixed = len(pieces) > 0 and any(part.compression for part in parts)
    # what is compressed is checked here, where keys are not those of other processes
    with reports_of(pieces, num_cores=1 if is_mixed else num_cores()) as reports:
        for part in parts:
            num_lines = num_records = num_broken = 0
            with part.open_content() as content:
                for found in _blocks_in(content) if part.compression else _pieces_in(part, content, reports):
                    report = found.report
                    tally.add(part, num_lines, report)
                    num_lines += report.num_lines
                    num_records += len(report.keys)
                    num_broken += report.broken.total()
                    yield found
            if num_broken and not num_records:
                problem = "nothing in it is a record with conversations and counts of tokens"
                raise JournalError(f"{part.path} is no data set: {problem}", hint="Leave it out.")


def _blocks_in(content: Any) -> Iterator[CheckedBlock]:
    return (CheckedBlock(block, check_content(block)) for block in line_blocks(content))


def _pieces_in(part: SplitFile, content: Any, reports: Iterator[PieceReport]) -> Iterator[CheckedBlock]:
    return (CheckedBlock(content, next(reports)) for _ in pieces_of(part.path, part.state))
