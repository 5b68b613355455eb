"""How long the sequences of a data set are: exact counts, small enough to be kept in a note. It knows no tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

_FIRST_EDGE: Final = 64


class Bucket(NamedTuple):
    """How many sequences have from `low` to `high` tokens, both included."""

    low: int
    high: int
    num_sequences: int


class LengthCounts:
    """How many sequences there are of each length in tokens. Memory goes with the number of different lengths."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[int, int]]) -> LengthCounts:
        """From what `pairs` gave. Raises ValueError or TypeError where that isn't what they are."""
        return cls({int(length): int(count) for length, count in pairs})

    def pairs(self) -> list[tuple[int, int]]:
        """Each length with its count, shortest first."""
        return sorted(self._counts.items())

    def add(self, length: int) -> None:
        """Count one sequence."""
        self._counts[length] += 1

    def update(self, other: LengthCounts) -> None:
        """Count all of `other` too."""
        self._counts.update(other._counts)

    @property
    def num_sequences(self) -> int:
        """How many were counted."""
        return self._counts.total()

    @property
    def num_tokens(self) -> int:
        """All of their tokens together."""
        return sum(length * count for length, count in self._counts.items())

    def quantile(self, share: float) -> int | None:
        """The smallest length that at least `share` (above 0, up to 1) of the sequences do not exceed."""
        needed, seen = share * self.num_sequences, 0
        for length, count in self.pairs():
            seen += count
            if seen >= needed:
                return length
        return None

    def summary(self) -> dict[str, int | float | None]:
        """What a person wants to know, by name; None where nothing was counted."""
        num_sequences = self.num_sequences
        return {
            "min": min(self._counts, default=None),
            "mean": round(self.num_tokens / num_sequences, 1) if num_sequences else None,
            "median": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": max(self._counts, default=None),
        }

    def as_json(self) -> dict[str, Any]:
        """For programs: the lengths summed up, and as buckets."""
        return {"lengths": self.summary(), "histogram": [bucket._asdict() for bucket in self.histogram()]}

    def histogram(self) -> list[Bucket]:
        """Buckets that double from 64 tokens on, without the empty ones at both ends."""
        buckets: list[Bucket] = []
        low, high, pairs = 0, _FIRST_EDGE, self.pairs()
        while pairs and low <= pairs[-1][0]:
            buckets.append(Bucket(low, high, sum(count for length, count in pairs if low <= length <= high)))
            low, high = high + 1, high * 2
        while buckets and not buckets[0].num_sequences:
            buckets.pop(0)
        return buckets
