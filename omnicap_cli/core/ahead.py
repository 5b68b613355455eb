"""Work done ahead of time in threads, its results in order. It knows neither the work nor who waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS: Final = 0.5


def in_order(
    source: Iterable[T], work: Callable[[T], R], *, num_threads: int, look_ahead: int | None = None
) -> Iterator[R]:
    """`work` of each element, in order, at most `look_ahead` (by default twice `num_threads`) ahead of the one in use.

    The source is read in a thread of its own: one that is slow holds back no result that is there. What the source or
    the work raises is raised here.
    """
    ahead: queue.SimpleQueue[Future[R] | BaseException | None] = queue.SimpleQueue()
    todo: queue.SimpleQueue[tuple[Future[R], T]] = queue.SimpleQueue()
    room = threading.Semaphore((look_ahead if look_ahead is not None else 2 * num_threads) + 1)
    abandoned = threading.Event()

    def read() -> None:
        try:
            for element in source:
                while not room.acquire(timeout=_POLL_SECONDS):
                    if abandoned.is_set():
                        return
                future: Future[R] = Future()
                todo.put((future, element))
                ahead.put(future)
            ahead.put(None)
        except BaseException as error:  # noqa: BLE001  handed to the consumer, who raises it
            ahead.put(error)

    def serve() -> None:
        while not abandoned.is_set():
            try:
                future, element = todo.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            _settle(future, work, element)
            del future, element  # not to be kept while waiting for the next

    # daemons: one that waits for a server must not hold up the end of the process
    for task, name in [(read, "read-ahead"), *[(serve, "work-ahead")] * num_threads]:
        threading.Thread(target=task, name=name, daemon=True).start()
    try:
        while (entry := ahead.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry.result()
            del entry  # with its result, before the next is waited for
            room.release()
    finally:
        abandoned.set()


def _settle(future: Future[R], work: Callable[[T], R], element: T) -> None:
    try:
        future.set_result(work(element))
    except BaseException as error:  # noqa: BLE001  raised where the result is taken
        future.set_exception(error)
