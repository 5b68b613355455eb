"""Where a pipeline's records go: into a journal, or down a stream in the order of the inputs. It opens neither."""

from __future__ import annotations

from collections.abc import Callable

from omnicap_cli.core.runs.journal import Journal, KnownOutcome
from omnicap_cli.core.runs.records import Request, Result


class JournalSink:
    """Records as they come, each durable and known again by the next run."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def known(self, key: str) -> KnownOutcome | None:
        """What the journal says of `key`."""
        return self._journal.known(key)

    def append(self, _number: int, request: Request, result: Result, line: bytes) -> int:
        """Write one record; see `Journal.append`."""
        self._journal.append(request.key, "error" if result.error else "ok", request.attempts, line)
        return 1


class StreamSink:
    """Records to `write`, each whole. In the order of the requests, unless `ordered` is off; nothing is resumed."""

    def __init__(self, write: Callable[[bytes], None], *, ordered: bool = True) -> None:
        self._write, self._ordered = write, ordered
        self._held_back: dict[int, bytes] = {}
        self._next = 0

    def known(self, _key: str) -> KnownOutcome | None:
        """A stream remembers nothing."""
        return None

    def append(self, number: int, _request: Request, _result: Result, line: bytes) -> int:
        """Write the record, and those that waited for it; or hold it back until its turn."""
        if not self._ordered:
            self._write(line)
            return 1
        self._held_back[number] = line
        first = self._next
        while (due := self._held_back.pop(self._next, None)) is not None:
            self._write(due)
            self._next += 1
        return self._next - first

    def flush(self) -> None:
        """Write what still waits for a record that will not come, because the run was stopped."""
        for number in sorted(self._held_back):
            self._write(self._held_back.pop(number))
