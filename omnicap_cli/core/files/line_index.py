"""What is known of a file of lines after it was read once to its end, and known again while the file stays the same.

It knows no lines: what an index tells of them beside, and in which form it is kept, is for those who make one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from omnicap_cli.core.files.file_state import FileState


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LineIndex:
    """A file as it was when it was read. `digest` is of its content; size and time tell cheaply whether it is still."""

    path: str
    num_bytes: int
    mtime_ns: int
    digest: str

    def is_of(self, path: Path) -> bool:
        """Whether `path` is that file, in that state. Raises OSError."""
        return (self.path, self.num_bytes, self.mtime_ns) == (str(path.resolve()), *FileState.of(path.stat()).content)


Index = TypeVar("Index", bound=LineIndex)


def open_index(
    path: Path, known: Index | None, scan: Callable[[BinaryIO], Index], keep: Callable[[Index], None]
) -> Index:
    """`known` where it is of this state of `path`, else what `scan` makes of the file, which `keep` gets.

    Raises OSError where the file can't be read, and what `scan` and `keep` do.
    """
    if known and known.is_of(path):
        return known
    with path.open("rb") as file:
        index = scan(file)
    keep(index)
    return index
