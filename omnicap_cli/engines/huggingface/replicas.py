"""The same model several times: a process for each GPU, or for each part of the cores. It runs none itself.

Requests go to the process that has the fewest in hand, all of an item to the same one. Only requests and results cross
the pipes; each process decodes its own pixels.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from omnicap_cli.core.runs.records import Idle, Request, Result
from omnicap_cli.core.workers.child import Child, ChildDiedError
from omnicap_cli.engines.registry import EngineOptions
from omnicap_cli.errors import EngineError


class End(NamedTuple):
    """What a process is told after its last request; `at_once` leaves out all but what is on its device."""

    at_once: bool


_MAX_FRUITLESS_DEATHS: Final = 2
DONE: Final = "done"  # what a process says when it has answered everything, or was told to leave it
_TARGET: Final = "omnicap_cli.engines.huggingface.replica:main"


class _Replica:
    """One process, and the requests that it has not answered yet."""

    def __init__(self, options: EngineOptions, environment: Mapping[str, str]) -> None:
        self.in_hand: dict[str, Request] = {}
        self.end: End | None = None
        self._options, self._environment = options, environment
        self._lock = threading.Lock()  # around sending, and what is in hand
        self._num_fruitless_deaths = 0  # since it answered last
        self._start()

    def _start(self) -> None:
        self.child = Child(_TARGET, environment=self._environment)
        self.child.send(self._options)

    def send(self, request: Request | Idle) -> None:
        with self._lock:
            if isinstance(request, Request):
                self.in_hand[request.key] = request
            self.child.send(request)

    def finish(self, *, at_once: bool) -> None:
        """There will be no more requests."""
        with self._lock:
            self.end = End(at_once)
            self.child.send(self.end)

    def answered(self, result: Result) -> None:
        with self._lock:
            self._num_fruitless_deaths = 0
            del self.in_hand[result.key]

    def replace(self, death: ChildDiedError) -> None:
        """Start another process, and send it again what the first held. Raises EngineError where that doesn't help."""
        self._num_fruitless_deaths += 1
        if self._num_fruitless_deaths > _MAX_FRUITLESS_DEATHS:
            raise EngineError(f"a process of the model died again and again ({death})")
        with self._lock:
            self._start()
            for message in (*_regrouped(self.in_hand.values()), *([self.end] if self.end else [])):
                self.child.send(message)


def _regrouped(requests: Iterable[Request]) -> Iterator[Request]:
    """What is left of each item's requests, which follow one another, numbered anew."""
    for _, group in itertools.groupby(requests, key=lambda request: request.item.id):
        left = list(group)
        yield from (replace(each, num_following=len(left) - 1 - place) for place, each in enumerate(left))


class Replicas:
    """A process with a model for each of `environments`, which are variables to set. For one run.

    A process that dies is replaced, and its requests are sent again. Raises EngineError where a model doesn't load, and
    where a process dies for the third time without an answer in between.
    """

    def __init__(self, options: EngineOptions, environments: Sequence[Mapping[str, str]]) -> None:
        self._said: queue.SimpleQueue[tuple[_Replica, Any]] = queue.SimpleQueue()
        self._is_killed = False
        self._replicas = [_Replica(options, environment) for environment in environments]

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        """See `Engine.run`."""
        threading.Thread(target=self._feed, args=(requests, stop), name="feed", daemon=True).start()
        for replica in self._replicas:
            self._listen_to(replica)
        running = len(self._replicas)
        while running:
            replica, message = self._said.get()
            if isinstance(message, Result):
                replica.answered(message)
                yield message
            elif message == DONE:
                running -= 1
            elif not isinstance(message, ChildDiedError):
                raise message
            elif stop.is_set():
                running -= 1  # what was on its device is lost, and another would have nothing to finish
            elif not self._is_killed:
                replica.replace(message)
                self._listen_to(replica)

    def kill(self) -> None:
        """End every process at once."""
        self._is_killed = True
        for replica in self._replicas:
            replica.child.kill()

    def close(self) -> None:
        """End every process and wait until they are gone."""
        self.kill()
        for replica in self._replicas:
            replica.child.death()

    def _feed(self, requests: Iterable[Request | Idle], stop: threading.Event) -> None:
        try:
            chosen = None
            for request in requests:
                if isinstance(request, Idle):
                    for replica in self._replicas:
                        replica.send(request)
                    continue
                chosen = chosen or min(self._replicas, key=lambda each: len(each.in_hand))
                chosen.send(request)
                if not request.num_following:
                    chosen = None
        except BaseException as error:  # noqa: BLE001  handed to the thread that runs the engine, which raises it
            self._said.put((self._replicas[0], error))
        for replica in self._replicas:
            replica.finish(at_once=stop.is_set())
        if not stop.is_set():
            stop.wait()
            for replica in self._replicas:
                replica.finish(at_once=True)

    def _listen_to(self, replica: _Replica) -> None:
        threading.Thread(target=self._listen, args=(replica, replica.child), name="listen", daemon=True).start()

    def _listen(self, replica: _Replica, child: Child) -> None:
        message: Any = None
        while not (message == DONE or isinstance(message, BaseException)):
            try:
                message = child.receive()
            except ChildDiedError as death:
                message = death
            self._said.put((replica, message))
