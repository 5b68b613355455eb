"""Work done ahead of time in threads, its results in order. It knows neither the work nor who waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


def in_order(
    source: Iterable[T], work: Callable[[T], R], *, num_threads: int, look_ahead: int | None = None
) -> Iterator[R]:
    """`work` of each element, in order, at most `look_ahead` (by default twice `num_threads`) ahead of the one in use.

    The source is read in a thread of its own: one that is slow holds back no result that is there. What the source or
    the work raises is raised here.
    """
    # queues in place of semaphores and futures, which are written in Python and cost several times as much
    ahead: queue.SimpleQueue[queue.SimpleQueue[R | _Raised] | None] = queue.SimpleQueue()
    todo: queue.SimpleQueue[tuple[queue.SimpleQueue[R | _Raised], T] | None] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range((look_ahead if look_ahead is not None else 2 * num_threads) + 1):
        room.put(None)
    abandoned = threading.Event()

    def read() -> None:
        try:
            for element in source:
                room.get()
                if abandoned.is_set():
                    return
                box: queue.SimpleQueue[R | _Raised] = queue.SimpleQueue()
                todo.put((box, element))
                ahead.put(box)
                del element, box
            ahead.put(None)
        except BaseException as error:  # noqa: BLE001  handed to the consumer, who raises it
            box = queue.SimpleQueue()
            box.put(_Raised(error))
            ahead.put(box)

    def serve() -> None:
        while (task := todo.get()) is not None and not abandoned.is_set():
            box, element = task
            try:
                box.put(work(element))
            except BaseException as error:  # noqa: BLE001  raised where the result is taken
                box.put(_Raised(error))
            del task, box, element  # not to be kept while waiting for the next

    # daemons: one that waits for a server must not hold up the end of the process
    for target, name in [(read, "read-ahead"), *[(serve, "work-ahead")] * num_threads]:
        threading.Thread(target=target, name=name, daemon=True).start()
    try:
        while (box := ahead.get()) is not None:
            result = box.get()
            if isinstance(result, _Raised):
                raise result.error
            yield result
            del result  # before the next is waited for
            room.put(None)
    finally:
        abandoned.set()
        room.put(None)  # to be noticed by those who wait
        for _ in range(num_threads):
            todo.put(None)
