"""The same model several times: a process for each GPU, or for each part of the cores. It runs none itself.

All requests of an item go to the same process. Only requests and results cross the pipes; each process decodes its own
pixels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from omnicap_cli.core.runs.records import Idle, Request, Result
from omnicap_cli.core.workers.pool import DeathPolicy, Pool
from omnicap_cli.core.workers.pool_child import Assignment, Work
from omnicap_cli.engines.item_requests import requests_by_item
from omnicap_cli.engines.registry import EngineOptions, create_engine
from omnicap_cli.errors import EngineError

_MAX_FRUITLESS_DEATHS: Final = 2


class Replicas:
    """A process with a model for each of `environments`, which are variables to set. For one run.

    A process that dies is replaced, and its requests are sent again. Raises EngineError where a model doesn't load, and
    where a process dies for the third time without an answer in between.
    """

    def __init__(self, options: EngineOptions, environments: Sequence[Mapping[str, str]]) -> None:
        self._pool = Pool(
            f"{__name__}:{load_replica.__name__}",
            options,
            environments=environments,
            max_in_hand=math.inf,
            on_death=DeathPolicy(
                max_deaths=_MAX_FRUITLESS_DEATHS,
                error=lambda death: EngineError(f"a process of the model died again and again ({death})"),
            ),
            rest=_unanswered,
        )
        self._pool.start()
        self.kill, self.close = self._pool.kill, self._pool.close

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        """See `Engine.run`."""
        return (result for _, result in self._pool.run(self._items(requests), stop))

    def _items(self, requests: Iterable[Request | Idle]) -> Iterator[list[Request]]:
        for of_item in requests_by_item(requests):
            if isinstance(of_item, Idle):
                self._pool.tell(of_item)
            else:
                yield of_item


def load_replica(options: EngineOptions) -> Work:
    """The target of the pool: an engine of its own."""
    engine = create_engine("huggingface", options)
    engine.warm_up()

    def work(assignments: Iterator[Assignment], stop: threading.Event) -> None:
        asked: dict[str, Assignment] = {}
        for result in engine.run(_requests_in(assignments, asked), stop):
            asked.pop(result.key).say(result)

    return work


def _requests_in(assignments: Iterable[Assignment], asked: dict[str, Assignment]) -> Iterator[Request | Idle]:
    """What is to be answered, and in `asked` by key to which assignment that belongs.

    What a dead process left of an item's requests is numbered anew: they must not run on into the next item.
    """
    for assignment in assignments:
        if isinstance(assignment.content, Idle):
            yield assignment.content
            continue
        for place, request in enumerate(assignment.content, 1):
            asked[request.key] = assignment
            yield replace(request, num_following=len(assignment.content) - place)


def _unanswered(requests: list[Request], result: Result) -> list[Request]:
    return [request for request in requests if request.key != result.key]
