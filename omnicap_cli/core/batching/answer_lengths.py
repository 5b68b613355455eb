"""How long answers get, learned from those that are finished. It knows numbers of tokens, and no text."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

QUANTILE: Final = 0.98  # the few rows beyond it go on alone: rows that end leave their batch
MARGIN: Final = 1.25
MIN_ANSWERS: Final = 256
_MAX_ANSWERS: Final = 4096  # the latest, so that a job whose pictures change is followed


class AnswerLengths:
    """What to expect of the next answers, in tokens."""

    def __init__(self, max_new_tokens: int) -> None:
        self._max_new_tokens = max_new_tokens
        self._seen: deque[int] = deque(maxlen=_MAX_ANSWERS)
        self._expected: int | None = max_new_tokens  # None: to be worked out again

    def add(self, num_tokens: int) -> None:
        """Learn from one finished answer."""
        self._seen.append(num_tokens)
        self._expected = None

    def forget(self) -> None:
        """Expect the limit again, until enough new answers have been seen."""
        self._seen.clear()
        self._expected = self._max_new_tokens

    @property
    def expected(self) -> int:
        """The QUANTILE of the latest answers with MARGIN, after MIN_ANSWERS; before, and at most, the limit."""
        if self._expected is None:
            self._expected = self._estimate()
        return self._expected

    def _estimate(self) -> int:
        if len(self._seen) < MIN_ANSWERS:
            return self._max_new_tokens
        long = sorted(self._seen)[math.ceil(QUANTILE * len(self._seen)) - 1]
        return max(1, min(self._max_new_tokens, math.ceil(long * MARGIN)))
