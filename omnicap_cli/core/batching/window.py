"""What waits for a batch, in the order of its length. It knows what things weigh, not what they are."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from omnicap_cli.core.batching.footprint import Load

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Generic[T]):
    """One thing that waits. `arrival` counts from 0; `num_bytes` is what it takes in a batch of its own."""

    what: T
    load: Load
    num_bytes: int
    arrival: int

    @property
    def place(self) -> tuple[int, int]:
        """By what it is sorted: the length of its longest row, then its arrival, which no two share."""
        return self.load.length, self.arrival


class Window(Generic[T]):
    """Things that wait. Adding one moves those behind it, which is quick for some thousands."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._sorted: list[Waiting[T]] = []
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, what: T, load: Load, num_bytes: int) -> None:
        """Let `what` wait; it puts `load` on the device, and takes `num_bytes` if it is alone."""
        waiting = Waiting(what=what, load=load, num_bytes=num_bytes, arrival=next(self._arrivals))
        bisect.insort(self._sorted, waiting, key=lambda each: each.place)
        self.num_bytes += num_bytes

    def oldest(self) -> Waiting[T]:
        """What has waited longest; there has to be something."""
        return min(self._sorted, key=lambda each: each.arrival)

    def nearest(self, length: int) -> Iterator[Waiting[T]]:
        """All, by how far its length is from `length`; what is removed meanwhile comes all the same."""
        ordered = self._sorted
        place = bisect.bisect_left(ordered, (length, 0), key=lambda each: each.place)
        below, above = reversed(ordered[:place]), ordered[place:]
        return heapq.merge(below, above, key=lambda each: abs(each.load.length - length))

    def remove(self, taken: Collection[Waiting[T]]) -> None:
        """Let these wait no longer."""
        arrivals = {each.arrival for each in taken}
        self._sorted = [each for each in self._sorted if each.arrival not in arrivals]
        self.num_bytes -= sum(each.num_bytes for each in taken)
