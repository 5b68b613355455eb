"""Engines whose processes each work on one item at a time, on the CPU. It knows requests, not what is done to them.

Decoders and recognisers are native code that a broken file can crash: such a death costs one item, not the run. Only
requests and results cross the pipes; each process decodes its own pixels.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final, Protocol

from omnicap_cli.core.files.words import with_class_name
from omnicap_cli.core.runs.engine import Engine
from omnicap_cli.core.runs.records import Idle, Request, Result
from omnicap_cli.core.workers.child import ChildDiedError
from omnicap_cli.core.workers.pool import Answered, DeathPolicy, Pool
from omnicap_cli.core.workers.pool_child import Assignment, Work
from omnicap_cli.engines.item_requests import requests_by_item
from omnicap_cli.errors import EngineError, InferenceError, ItemError, WorkerCrashedError
from omnicap_cli.media.decode import Pixels, decode, decode_ahead

_IN_HAND: Final = 2  # items that a process holds: one at work, one being decoded


class ItemWorker(Protocol):
    """What "module:Class" makes from the engine's `config`, in a process."""

    def answer(self, request: Request, pixels: Pixels) -> Result:
        """The result of one request, given the decoded pixels of its item."""
        ...


class ItemEngine(Engine):
    """See `Engine`. `num_workers` processes that run `worker` ("module:Class"), each started when there is work for it.

    An item that crashes a process, and a fresh one that has nothing else in hand, becomes a WorkerCrashedError. Raises
    EngineError if a process can't start.
    """

    def __init__(self, worker: str, config: Any, *, num_workers: int) -> None:
        self._make_pool = partial(
            Pool,
            f"{__name__}:{load_worker.__name__}",
            (worker, config),
            environments=[{}] * num_workers,
            max_in_hand=_IN_HAND,
            on_death=DeathPolicy(
                tries_alone=True,
                error=lambda death: EngineError(f"a process of the engine died while it loaded the model ({death})"),
            ),
        )
        self._pool = self._make_pool()

    def warm_up(self) -> None:
        self._pool.start(1)

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        try:
            for item_requests, answer in self._pool.run(_tasks_of(requests), stop):
                yield from _results_of(item_requests, answer)
        finally:
            self._pool = self._make_pool()  # for another run

    def close(self) -> None:
        self._pool.close()

    def kill(self) -> None:
        self._pool.kill()


def load_worker(config: tuple[str, Any]) -> Work:
    """The target of the pool: the worker, and how it comes by its pixels."""
    module, name = config[0].split(":")
    worker: ItemWorker = getattr(importlib.import_module(module), name)(config[1])

    def work(assignments: Iterator[Assignment], _stop: threading.Event) -> None:
        ahead = decode_ahead(assignments, lambda each: decode(each.content[0].item, each.content[0].settings))
        for assignment, pixels in ahead:
            assignment.answer([_answer_request(worker, request, pixels) for request in assignment.content])

    return work


def _tasks_of(requests: Iterable[Request | Idle]) -> Iterator[list[Request] | Answered]:
    """The requests of each item, but for those that need no process to fail."""
    for of_item in requests_by_item(requests):
        if not isinstance(of_item, Idle):
            failed = [Result.failed(each, each.item.error) for each in of_item if each.item.error]
            if failed:
                yield Answered(of_item, failed)
            if len(failed) < len(of_item):
                yield [request for request in of_item if not request.item.error]


def _results_of(requests: list[Request], answer: list[Result] | ChildDiedError) -> list[Result]:
    if not isinstance(answer, ChildDiedError):
        return answer
    error = WorkerCrashedError(f"it crashed the process that worked on it, twice ({answer})")
    return [Result.failed(request, error) for request in requests]


def _answer_request(worker: ItemWorker, request: Request, pixels: Pixels | ItemError) -> Result:
    started = time.monotonic()
    try:
        if isinstance(pixels, ItemError):
            raise pixels
        return worker.answer(request, pixels)
    except ItemError as error:
        failure = error
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001  one item that a model chokes on doesn't end the run
        failure = InferenceError(f"the model failed on it: {with_class_name(error)}")
    return Result.failed(request, failure, seconds=time.monotonic() - started)
