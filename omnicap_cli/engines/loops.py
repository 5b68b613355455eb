"""Notices when a text that is being generated only repeats itself. It knows token ids, and nothing of text or models.

Models run into such loops with greedy decoding, and end them only at their limit of tokens. A penalty on repetition
would keep them out of loops, and ruin every table on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

_MAX_PERIOD_TOKENS: Final = 256  # a paragraph
_MIN_REPEATS: Final = 4
_MIN_SPAN_TOKENS: Final = 256
_MIN_LINES: Final = 40
_MAX_LINES_TOKENS: Final = 512
_BUFFER_TOKENS: Final = 16 * _MAX_PERIOD_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """From the token at `start` (from 0) on, every token is the one `period_tokens` before it."""

    start: int
    period_tokens: int


class LoopDetector:
    """Watches the tokens of one text; `loop` is the first loop that it ran into.

    A tail that repeats with a period of up to 256 tokens is a loop if it stands there 4 times, which no paragraph does.
    But what is printed repeats too, and losing the rest of a page is worse than noticing late. So it also takes 256
    tokens, which rules of tables ("| --- | --- |"), dot leaders and rows of zeros don't reach; and 40 periods, or 512
    tokens where that is less: an empty form may well have 40 equal lines. A loop is thus noticed after 256 to 512
    tokens, or after 4 periods of more than 128. Lines that count on ("Item 1.", "Item 2.") aren't equal, and no loop.

    A token takes some microseconds, however long the text is.
    """

    def __init__(self) -> None:
        self.loop: Loop | None = None
        self._num_tokens = 0
        self._recent = np.full(_BUFFER_TOKENS, -1, np.int64)  # the last ones end before `_end`; no token is -1
        self._end = _MAX_PERIOD_TOKENS
        # by period, from 1: how many of the last tokens, without a gap, are the same as one period before
        self._num_same = np.zeros(_MAX_PERIOD_TOKENS, np.int64)
        periods = np.arange(1, _MAX_PERIOD_TOKENS + 1)
        lines = np.minimum(_MIN_LINES * periods, _MAX_LINES_TOKENS)
        self._num_same_in_loop = np.maximum(np.maximum(_MIN_REPEATS * periods, _MIN_SPAN_TOKENS), lines) - periods

    def push(self, token: int) -> bool:
        """Take the next token; whether the text is in a loop. Once it is, nothing changes any more."""
        if self.loop is None:
            self._count(token)
            is_loop = self._num_same >= self._num_same_in_loop
            if is_loop.any():
                period = int(is_loop.argmax()) + 1
                start = self._num_tokens - int(self._num_same[period - 1]) - period
                self.loop = Loop(start=start, period_tokens=period)
        return self.loop is not None

    def trim(self, tokens: list[int]) -> list[int]:
        """All `tokens` of the text, but of a loop only the first period."""
        return tokens[: self.loop.start + self.loop.period_tokens] if self.loop else tokens

    def _count(self, token: int) -> None:
        newest_first = self._recent[self._end - _MAX_PERIOD_TOKENS : self._end][::-1]
        self._num_same += 1
        self._num_same *= newest_first == token
        if self._end == _BUFFER_TOKENS:
            self._recent[:_MAX_PERIOD_TOKENS] = self._recent[-_MAX_PERIOD_TOKENS:]
            self._end = _MAX_PERIOD_TOKENS
        self._recent[self._end] = token
        self._end += 1
        self._num_tokens += 1
