"""The files of a split of a data set, and the note that tells that it is whole. It counts nothing itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from omnicap_cli import __version__
from omnicap_cli.core.files.atomic import writing
from omnicap_cli.errors import JournalError


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Part `index` (from 0) of the `num_splits` of the data set `name`, written to `folder`.

    File names count from 1, as those of the published script do.
    """

    folder: Path
    name: str
    index: int
    num_splits: int

    @property
    def title(self) -> str:
        """The name of its files, without suffix."""
        return f"{self.name}_split{self.index + 1}"

    @property
    def output(self) -> Path:
        """The records that training reads."""
        return self.folder / f"{self.title}.jsonl"

    @property
    def rejects(self) -> Path:
        """The records that it can't read, each with a reason."""
        return self.folder / "rejects" / f"{self.title}.jsonl"

    @property
    def note(self) -> Path:
        """What is written last, when both are whole."""
        return self.folder / "meta" / f"{self.title}.json"

    @property
    def checkpoint(self) -> Path:
        """How far a split is that is being made."""
        return self.folder / "meta" / f"{self.title}.checkpoint.json"

    @property
    def lock(self) -> Path:
        """Held by the process that makes it."""
        return self.folder / "meta" / f"{self.title}.lock"

    def lines_of(self, num_lines: int) -> range:
        """The lines (from 0) that belong to it, of a file of `num_lines`: as many for each split, but for the last."""
        size = math.ceil(num_lines / self.num_splits)
        return range(min(num_lines, self.index * size), min(num_lines, (self.index + 1) * size))


MAX_SPLITS: Final = 1_000_000  # more are a mistake, and naming what is missing would take all memory


def partial_of(path: Path) -> Path:
    """Where a file of a split is until it is whole."""
    return path.with_name(f"{path.name}.partial")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitNote:
    """What became of a split. `num_in` records were in its lines, blank ones left out: `num_kept` and `num_rejected`.

    `settings` are all that the result hangs on; `lengths` are pairs of a `sequence_length` and how many records have
    it; `output_bytes` is the size of the output. Times are seconds since 1970.
    """

    name: str
    index: int
    num_splits: int
    settings: dict[str, Any]
    num_lines: int
    num_in: int
    num_kept: int
    num_rejected: int
    rejected: dict[str, int]
    num_text_tokens: int
    num_image_tokens: int
    num_sequence_tokens: int
    lengths: list[tuple[int, int]]
    output_bytes: int
    started: float
    ended: float
    omnicap: str = __version__

    def write(self, path: Path) -> None:
        """Put it at `path`. Raises JournalWriteError."""
        with writing(path) as file:
            file.write(msgspec.json.encode(self) + b"\n")

    @classmethod
    def read(cls, path: Path) -> SplitNote | None:
        """The note at `path`, or None where there is none. Raises JournalError where it can't be read."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            problem = getattr(error, "strerror", None) or f"it is no note of a split ({error})"
            raise JournalError(f"can't read {path}: {problem}", hint="Remove it, and make that split again.") from error
