"""All parts of a data set, read one after the other and checked in pieces, several at once; and what is in them.

Each process reads its piece itself, and answers with numbers alone: places of what to keep, and counts. Nothing is
written here, and no records are compared.
"""

from __future__ import annotations

import contextlib
import sys
from array import array
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from omnicap_cli.core.files.file_state import FileState
from omnicap_cli.core.models.machine import num_cores
from omnicap_cli.core.workers.pool import DeathPolicy, Pool
from omnicap_cli.core.workers.pool_child import Work, answering
from omnicap_cli.core.workers.prefetch import in_order
from omnicap_cli.datasets.merging.checked_lines import CheckedLines, check_lines
from omnicap_cli.datasets.merging.find_splits import SplitFile, open_unchanged
from omnicap_cli.datasets.streams import line_batches, line_blocks
from omnicap_cli.errors import JournalError, OmnicapError

_MAX_NAMED: Final = 5
_PIECE_BYTES: Final = 16 << 20
_MIN_PROCESS_BYTES: Final = 64 << 20  # less is done before a process has started
_MAX_PROCESSES: Final = 4  # more read faster than one can write
_NUM_AHEAD: Final = 3  # pieces for each process


class Piece(NamedTuple):
    """The lines of a file that begin in `start` to `end`."""

    path: Path
    state: FileState
    start: int
    end: int


@dataclass(slots=True)
class PieceReport:
    """What is in a piece. `runs` are an offset and a number of bytes in turns: what to keep of the file.

    `keys` and `lengths` are of each record, as in CheckedLines. `broken` counts lines by reason, and `first_broken` are
    the first of them, from 0. `lacks_newline` tells that the last line to keep does.
    """

    runs: array[int] = field(default_factory=lambda: array("q"))
    lacks_newline: bool = False
    num_lines: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    keys: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    broken: Counter[str] = field(default_factory=Counter)
    first_broken: list[tuple[int, str]] = field(default_factory=list)

    def add(self, place: int, lines: Sequence[bytes]) -> None:
        """Check lines that begin at the byte `place` of the file."""
        checked = check_lines(lines, self._count_broken)
        self.num_lines += len(lines)
        texts, images = sum(checked.text_tokens), sum(checked.image_tokens)
        self.totals.update(num_text_tokens=texts, num_image_tokens=images, num_lacking=sum(checked.lacks))
        self.keys.extend(checked.keys)
        self.lengths.extend(checked.lengths)
        self._keep(place, lines, checked)

    def _count_broken(self, place: int, reason: str) -> None:
        self.broken[reason] += 1
        if len(self.first_broken) < _MAX_NAMED:
            self.first_broken.append((self.num_lines + place, reason))

    def _keep(self, place: int, lines: Sequence[bytes], checked: CheckedLines) -> None:
        first = 0  # of the lines that are not dealt with
        for dropped, num_bytes in checked.dropped:
            end = place + sum(map(len, lines[first:dropped]))
            self._add_run(place, end)
            place, first = end + len(lines[dropped]), dropped + 1
            self._add_run(end + num_bytes, place)
        self._add_run(place, place + sum(map(len, lines[first:])))
        was_dropped = bool(checked.dropped) and checked.dropped[-1] == (len(lines) - 1, len(lines[-1]))
        self.lacks_newline = not was_dropped and not lines[-1].endswith(b"\n")

    def _add_run(self, start: int, end: int) -> None:
        if start == end:
            return
        if self.runs and self.runs[-2] + self.runs[-1] == start:
            self.runs[-1] += end - start
        else:
            self.runs.extend((start, end - start))


def check_content(file: Any, start: int = 0, end: int = sys.maxsize) -> PieceReport:
    """What is in an unbuffered file, or in a piece of it. Raises OSError."""
    report = PieceReport()
    for place, lines in line_batches(file, start, end):
        report.add(place, lines)
    return report


def check_piece(piece: Piece) -> PieceReport:
    """What is in a piece. Raises JournalError if the file can't be read, or is another by now."""
    with open_unchanged(piece.path, piece.state) as file:
        return check_content(file, piece.start, piece.end)


def pieces_of(path: Path, state: FileState) -> Iterator[Piece]:
    """All of a file, in pieces."""
    for start in range(0, state.num_bytes, _PIECE_BYTES):
        yield Piece(path, state, start, min(start + _PIECE_BYTES, state.num_bytes))


@contextlib.contextmanager
def reports_of(pieces: Sequence[Piece], *, num_cores: int) -> Iterator[Iterator[PieceReport]]:
    """What is in each piece, in order. Reading it raises what `check_piece` does, OmnicapError if a process dies."""
    num_processes = min(num_cores, _MAX_PROCESSES, len(pieces) * _PIECE_BYTES // _MIN_PROCESS_BYTES)
    if num_processes < 2:
        yield map(check_piece, pieces)
        return
    # keys have to be the same for the same record, whichever process looks at it
    same_keys = {"PYTHONHASHSEED": "0"}
    pool = Pool(
        f"{__name__}:{load_checker.__name__}",
        environments=[same_keys] * num_processes,
        max_in_hand=_NUM_AHEAD,
        on_death=DeathPolicy(
            error=lambda death: OmnicapError(f"a process that checked lines died: {death}", hint="Run it again.")
        ),
    )
    with contextlib.closing(pool):
        num_ahead = num_processes * _NUM_AHEAD
        yield in_order(pieces, pool.ask, num_threads=num_ahead, look_ahead=num_ahead)


def load_checker(_config: None) -> Work:
    """The target of the pool."""
    return answering(check_piece)


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
        for place, reason in report.first_broken[: _MAX_NAMED - len(self.first_broken)]:
            self.first_broken.append(f"{part.path}:{num_lines_before + place + 1} ({reason})")


def read_split_files(parts: Sequence[SplitFile], tally: MergeCounts) -> Generator[tuple[Any, PieceReport], None, None]:
    """All pieces of all parts, in order: an open file, unbuffered, and what to keep of it. Raises JournalError."""
    pieces = [piece for part in parts if not part.compression for piece in pieces_of(part.path, part.state)]
    is_mixed = len(pieces) > 0 and any(part.compression for part in parts)
    # what is compressed is checked here, where keys are not those of other processes
    with reports_of(pieces, num_cores=1 if is_mixed else num_cores()) as reports:
        for part in parts:
            num_lines = num_records = num_broken = 0
            with part.open_content() as content:
                if part.compression:
                    blocks = ((block, check_content(block)) for block in line_blocks(content))
                else:
                    blocks = ((content, next(reports)) for _ in pieces_of(part.path, part.state))
                for block, report in blocks:
                    tally.add(part, num_lines, report)
                    num_lines += report.num_lines
                    num_records += len(report.keys)
                    num_broken += report.broken.total()
                    yield block, report
            if num_broken and not num_records:
                problem = "nothing in it is a record with conversations and counts of tokens"
                raise JournalError(f"{part.path} is no data set: {problem}", hint="Leave it out.")
