"""How far a split is, and the note of it that whoever goes on reads. It knows no file of the split itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from omnicap_cli.core.files.atomic import writing
from omnicap_cli.datasets.lengths import LengthCounts
from omnicap_cli.datasets.tokenizing.counting import Counted


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
