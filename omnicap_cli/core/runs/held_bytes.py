"""How many bytes of files that came by in a stream wait in memory. It knows no queue: who is to wait, waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class HeldBytes:
    """Counts each content once, however many hold it, as the pages of a document do. For one thread at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._num_holders: Counter[int] = Counter()  # by the id of a content

    def has_room(self, contents: Iterable[bytes]) -> bool:
        """Whether they may be held too; where nothing is held, they always may."""
        new = {id(content): len(content) for content in contents if id(content) not in self._num_holders}
        return not new or not self._num_bytes or self._num_bytes + sum(new.values()) <= self._max_bytes

    def hold(self, contents: Iterable[bytes]) -> None:
        """One more holds them."""
        for content in contents:
            self._num_bytes += 0 if id(content) in self._num_holders else len(content)
            self._num_holders[id(content)] += 1

    def let_go(self, contents: Iterable[bytes]) -> None:
        """One of those that hold them doesn't any more."""
        for content in contents:
            self._num_holders[id(content)] -= 1
            if not self._num_holders[id(content)]:
                del self._num_holders[id(content)]
                self._num_bytes -= len(content)
