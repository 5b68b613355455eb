"""One of N equal parts of a run, for machines that share no journal. It knows nothing of what is divided."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from omnicap_cli.errors import OptionError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 0) of `num_shards`: every num_shards-th element, so that all parts are the whole."""

    index: int
    num_shards: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `I/N`. Raises OptionError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None or int(match[1]) >= int(match[2]):
            raise OptionError("--shard", text, "is no part; give I/N, as in 0/8 to 7/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.num_shards}"

    def of(self, whole: Iterable[T]) -> Iterator[T]:
        """The elements of this part, in order."""
        return itertools.islice(whole, self.index, None, self.num_shards)
