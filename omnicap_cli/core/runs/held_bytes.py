"""How many bytes of pictures that came by in a stream wait in memory. It knows no queue: who is to wait, waits."""

from __future__ import annotations


class HeldBytes:
    """Counts each content once, however many hold it, as the pages of a document do. For one thread at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._holders: dict[int, int] = {}  # id of a content -> how many hold it

    def has_room(self, content: bytes | None) -> bool:
        """Whether it may be held too; a single content always may."""
        if content is None or id(content) in self._holders or not self._num_bytes:
            return True
        return self._num_bytes + len(content) <= self._max_bytes

    def hold(self, content: bytes | None) -> None:
        """One more holds it."""
        if content is not None:
            num_holders = self._holders.get(id(content), 0)
            self._holders[id(content)] = num_holders + 1
            self._num_bytes += 0 if num_holders else len(content)

    def let_go(self, content: bytes | None) -> None:
        """One of those that hold it doesn't any more."""
        if content is not None:
            self._holders[id(content)] -= 1
            if not self._holders[id(content)]:
                del self._holders[id(content)]
                self._num_bytes -= len(content)
