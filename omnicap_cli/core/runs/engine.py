"""What every engine is: requests in, results out. It knows no command, no journal and no terminal."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from omnicap_cli.core.runs.records import EngineIdentity, Idle, Request, Result


class Engine(ABC):
    """Turns requests into results. Making one is cheap and tells its identity; the model loads at the first request.

    Whatever is wrong with an item is a Result with an error; an EngineError is for what is wrong with the engine.
    """

    identity: EngineIdentity
    say: Callable[[str], None] = staticmethod(lambda _: None)  # takes what a user may want to know while it works

    @abstractmethod
    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        """One Result per Request, in any order, pulling requests with bounded look-ahead.

        When `stop` is set, what is on the device is finished and yielded, and the iterator ends.
        """

    def forecast(self) -> Forecast | None:
        """What counts the cost of requests without running them, where the engine can tell."""
        return None

    @abstractmethod
    def warm_up(self) -> None:
        """Start loading the model now: work is certain to come."""

    @abstractmethod
    def close(self) -> None:
        """Give back processes, memory and devices."""

    @abstractmethod
    def kill(self) -> None:
        """As `close`, at once, whatever is running. Safe in a signal handler."""


class Forecast(Protocol):
    """Counts what requests will cost."""

    def add(self, group: Sequence[Request], sizes: Sequence[tuple[int, int]]) -> None:
        """Count the requests of one item, whose visuals have `sizes`: width and height in pixels."""
        ...

    def counts(self) -> dict[str, Any]:
        """The counts, by name."""
        ...
