"""The one loop: items become requests, an engine answers them, a sink makes each answer durable.

It knows the interfaces of all three and the inside of none.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from omnicap_cli.core.runs.engine import Engine
from omnicap_cli.core.runs.held_bytes import HeldBytes
from omnicap_cli.core.runs.journal import KnownOutcome
from omnicap_cli.core.runs.records import Idle, Request, Result, encode_record
from omnicap_cli.errors import OptionError

IDLE_SECONDS: Final = 0.5
_WINDOW: Final = 4096  # requests planned but not yet durable: bounds memory, and how far results may overtake
_MAX_HELD_BYTES: Final = 1 << 27  # of pictures that came by in a stream and wait, compressed, in memory
_MIN_FOR_RATE: Final = 20  # finished requests before an error rate means anything


class Sink(Protocol):
    """Where records go."""

    def known(self, key: str) -> KnownOutcome | None:
        """What is already there for a request."""
        ...

    def append(self, number: int, request: Request, result: Result, line: bytes) -> int:
        """Take the record of the `number`th request (from 0); how many records went out, those held back included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the loop does about errors. `max_error_rate` is a share from 0 to 1."""

    retry_failed: bool = False
    fail_fast: bool = False
    max_error_rate: float | None = None

    def __post_init__(self) -> None:
        if self.max_error_rate is not None and not 0 <= self.max_error_rate <= 1:
            raise OptionError("--max-error-rate", self.max_error_rate, "is not a share; give a number from 0 to 1")


@dataclass(slots=True, kw_only=True)
class RunTally:
    """What became of the requests of a run. `num_failed_before` failed in an earlier run and were left at that."""

    num_planned: int = 0
    num_done_before: int = 0
    num_failed_before: int = 0
    num_ok: int = 0
    num_failed: int = 0
    num_output_tokens: int = 0
    errors: dict[str, int] = dataclasses.field(default_factory=dict)
    gave_up: str | None = None

    @property
    def num_finished(self) -> int:
        """Finished by this run."""
        return self.num_ok + self.num_failed

    @property
    def num_handled(self) -> int:
        """Finished by this run or an earlier one."""
        return self.num_finished + self.num_done_before + self.num_failed_before

    def count(self, result: Result) -> None:
        """Add one result."""
        self.num_output_tokens += result.output_tokens
        if result.error is None:
            self.num_ok += 1
        else:
            self.num_failed += 1
            self.errors[result.error.kind] = self.errors.get(result.error.kind, 0) + 1

    def count_known(self, known: KnownOutcome) -> None:
        """Add one request that an earlier run finished."""
        if known.status == "ok":
            self.num_done_before += 1
        else:
            self.num_failed_before += 1


class Pipeline:
    """One run: `run` feeds the requests of each item in `groups` to `engine` and their records to `sink`."""

    def __init__(
        self,
        groups: Iterable[list[Request]],
        engine: Engine,
        sink: Sink,
        *,
        policy: Policy,
        stop: threading.Event,
        on_result: Callable[[Request, Result, RunTally], None] = lambda *_: None,
    ) -> None:
        self.tally = RunTally()
        self._groups, self._engine, self._sink = groups, engine, sink
        self._policy, self._stop, self._on_result = policy, stop, on_result
        self._planned: queue.Queue[Request | BaseException | None] = queue.Queue(_WINDOW)
        self._window = threading.Semaphore(_WINDOW)
        self._in_flight: dict[str, tuple[int, Request]] = {}
        self._held = HeldBytes(_MAX_HELD_BYTES)
        self._held_changed = threading.Condition()

    def run(self) -> RunTally:
        """Until the requests end, `stop` is set or the policy gives up. Errors of source, engine or sink are raised."""
        threading.Thread(target=self._plan_requests, name="plan", daemon=True).start()
        results = self._engine.run(self._pull_requests(), self._stop)
        try:
            self._take_results(results)
        finally:
            if isinstance(results, Generator):
                results.close()  # now, not when somebody forgets it: an engine ends its work first
        return self.tally

    def _take_results(self, results: Iterable[Result]) -> None:
        for result in results:
            number, request = self._in_flight.pop(result.key)
            self._release_contents(request)
            line = encode_record(request, result, self._engine.identity)
            if num_out := self._sink.append(number, request, result, line):
                self._window.release(num_out)
            self.tally.count(result)
            self._on_result(request, result, self.tally)
            self._check_policy(result)

    def _plan_requests(self) -> None:
        """Look up in the sink what is still to do, ahead of the engine, in a thread of its own."""
        try:
            for group in self._groups:
                for request in self._requests_to_do(group):
                    self._hold_contents(request)
                    self._put_planned(request)
                if self._stop.is_set():
                    return
            self._put_planned(None)
        except BaseException as error:  # noqa: BLE001  handed to the thread that runs the engine, which raises it
            self._put_planned(error)

    def _requests_to_do(self, group: list[Request]) -> list[Request]:
        wanted = []
        for request in group:
            self.tally.num_planned += 1
            known = self._sink.known(request.key)
            if known is None:
                wanted.append(request)
            elif known.status == "error" and self._policy.retry_failed:
                wanted.append(dataclasses.replace(request, attempts=known.attempts + 1))
            else:
                self.tally.count_known(known)
        last = len(wanted) - 1
        return [dataclasses.replace(each, num_following=last - place) for place, each in enumerate(wanted)]

    def _hold_contents(self, request: Request) -> None:
        """Wait until there is room for what a request keeps in memory."""
        contents = request.item.contents
        with self._held_changed:
            while not self._held.has_room(contents) and not self._stop.is_set():
                self._held_changed.wait(IDLE_SECONDS)
            self._held.hold(contents)

    def _release_contents(self, request: Request) -> None:
        with self._held_changed:
            self._held.let_go(request.item.contents)
            self._held_changed.notify()

    def _put_planned(self, entry: Request | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._planned.put(entry, timeout=IDLE_SECONDS)
            except queue.Full:
                continue
            return

    def _pull_requests(self) -> Iterator[Request | Idle]:
        """What the engine pulls: the next request, or Idle where there is none for a while."""
        number = 0
        while not self._stop.is_set():
            try:
                entry = self._planned.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                yield Idle.IDLE
                continue
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            while not self._window.acquire(timeout=IDLE_SECONDS):
                yield Idle.IDLE
                if self._stop.is_set():
                    return
            self._in_flight[entry.key] = (number, entry)
            number += 1
            yield entry

    def _check_policy(self, result: Result) -> None:
        tally, limit = self.tally, self._policy.max_error_rate
        if result.error is not None and self._policy.fail_fast:
            tally.gave_up = tally.gave_up or f"--fail-fast: stopped because an item failed ({result.error.message})"
        elif (
            limit is not None and tally.num_finished >= _MIN_FOR_RATE and tally.num_failed > limit * tally.num_finished
        ):
            rate = f"{tally.num_failed} of {tally.num_finished} failed"
            tally.gave_up = tally.gave_up or f"--max-error-rate {limit:g}: {rate}"
        if tally.gave_up:
            self._stop.set()
