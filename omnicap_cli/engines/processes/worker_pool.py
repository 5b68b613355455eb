"""Processes that each work on one item at a time, for engines on the CPU. It knows requests, not what is done to them.

Decoders and recognisers are native code that a broken file can crash, so they run in processes of their own: such a
death costs one item, not the run. Only requests and results cross the pipes; each process decodes its own pixels.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final

from omnicap_cli.core.runs.records import Idle, Request, Result
from omnicap_cli.core.workers.child import Child, ChildDiedError
from omnicap_cli.errors import EngineError, WorkerCrashedError

Task = list[Request]  # all requests of one item
READY: Final = "ready"
_IN_HAND: Final = 2  # tasks that a process holds: one at work, one being decoded
_POLL_SECONDS: Final = 0.2


class WorkerPool:
    """`num_workers` processes that run `target` ("module:Class", see `worker`) made with `config`.

    A process starts when there is work for it. One that dies takes its tasks to a fresh process, one by one; the task
    that kills that too becomes a WorkerCrashedError. Raises EngineError if a process can't start.
    """

    def __init__(self, target: str, config: Any, *, num_workers: int) -> None:
        self._target, self._config, self._num_workers = target, config, num_workers
        self._begin()
        self._lock = threading.Lock()  # around the two that follow
        self._workers: list[_Worker] = []
        self._spare: _Worker | None = None
        self._serving: list[threading.Thread] = []
        self._closing = False

    def _begin(self) -> None:
        self._todo: queue.Queue[Task | None] = queue.Queue(2 * self._num_workers)
        self._done: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)  # counts the processes that wait for a task

    def warm_up(self) -> None:
        """Start the first process now."""
        self._spare = self._start()

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        """See `Engine.run`. One call at a time."""
        self._begin()
        feeding = threading.Thread(target=self._feed, args=(requests, stop), daemon=True)
        self._serving = [
            threading.Thread(target=self._serve, args=(stop,), daemon=True) for _ in range(self._num_workers)
        ]
        for thread in (feeding, *self._serving):
            thread.start()
        running = 1 + self._num_workers
        while running:
            result = self._done.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                running -= 1
            else:
                yield result

    def kill(self) -> None:
        """End every process at once, whatever it is doing; what they held is given up."""
        self._closing = True
        for worker in list(self._workers):
            worker.kill()

    def close(self) -> None:
        """End every process and wait until they are gone."""
        self.kill()
        for thread in self._serving:  # one of them may be starting a process just now
            thread.join()
        for worker in list(self._workers):
            worker.death()

    def _feed(self, requests: Iterable[Request | Idle], stop: threading.Event) -> None:
        """Put the requests of each item together and hand them out, until there are no more or `stop` is set."""
        try:
            task: Task = []
            for request in requests:
                if stop.is_set() or self._closing:
                    break
                if not isinstance(request, Request):
                    continue
                if request.item.error:
                    self._done.put(Result.failed(request, request.item.error))
                else:
                    task.append(request)
                if not request.num_following and task:
                    self._put(task, stop)
                    task = []
        except BaseException as error:  # noqa: BLE001  handed to the thread that runs the engine, which raises it
            self._done.put(error)
        finally:
            for _ in range(self._num_workers):
                self._put(None, stop)
            self._done.put(None)

    def _put(self, task: Task | None, stop: threading.Event) -> None:
        while not (stop.is_set() or self._closing):
            try:
                self._todo.put(task, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            break

    def _serve(self, stop: threading.Event) -> None:
        """Keep one process busy, with the next task in its hands while it works on one."""
        in_hand: collections.deque[Task] = collections.deque()
        worker: _Worker | None = None
        try:
            more = True
            while more or in_hand:
                task = self._next(stop, wait=not in_hand) if more and len(in_hand) < _IN_HAND else _NOTHING
                more = task is not None
                if task:
                    worker = worker or self._take_spare() or self._start()
                    in_hand.append(task)
                    worker.send(task)
                elif in_hand and worker:
                    worker = self._receive(worker, in_hand, stop)
        except BaseException as error:  # noqa: BLE001  handed to the thread that runs the engine, which raises it
            self._done.put(error)
        finally:
            self._done.put(None)

    def _next(self, stop: threading.Event, *, wait: bool) -> Task | None:
        """The next task, None when there will be no more, `_NOTHING` when there is none for this process now."""
        if not wait and self._idle.acquire(blocking=False):  # another process has nothing at all: leave it that
            self._idle.release()
            return _NOTHING
        if wait:
            self._idle.release()
        try:
            while not (stop.is_set() or self._closing):
                try:
                    return self._todo.get(timeout=_POLL_SECONDS) if wait else self._todo.get_nowait()
                except queue.Empty:
                    if not wait:
                        return _NOTHING
            return None
        finally:
            if wait:
                self._idle.acquire()

    def _receive(self, worker: _Worker, in_hand: collections.deque[Task], stop: threading.Event) -> _Worker | None:
        """Pass on the results of the oldest task; if the process died instead, try each task it had alone."""
        try:
            results = worker.receive()
        except ChildDiedError:
            if not worker.ready and stop.wait(_POLL_SECONDS):  # a signal to all ended it before it could ignore that
                in_hand.clear()
            self._check_start(worker, stop)
            while in_hand and not self._closing:
                self._try_alone(in_hand[0], stop)
                in_hand.popleft()
            in_hand.clear()
            return None
        in_hand.popleft()
        for result in results:
            self._done.put(result)
        return worker

    def _try_alone(self, task: Task, stop: threading.Event) -> None:
        worker = self._start()
        try:
            worker.send(task)
            results = worker.receive()
        except ChildDiedError as death:
            self._check_start(worker, stop)
            if not worker.ready:  # the run is being stopped
                return
            error = WorkerCrashedError(f"it crashed the process that worked on it, twice ({death})")
            results = [Result.failed(request, error) for request in task]
        worker.kill()
        for result in results:
            self._done.put(result)

    def _check_start(self, worker: _Worker, stop: threading.Event) -> None:
        if not worker.ready and not self._closing and not stop.is_set():
            raise EngineError(f"a process of the engine died while it loaded the model ({worker.death()})")

    def _take_spare(self) -> _Worker | None:
        with self._lock:
            spare, self._spare = self._spare, None
        return spare

    def _start(self) -> _Worker:
        worker = _Worker(self._target, self._config)
        with self._lock:
            self._workers = [other for other in self._workers if other.alive] + [worker]
        if self._closing:  # by a kill that did not see this one yet
            worker.kill()
        return worker


_NOTHING: Final[Task] = []


class _Worker:
    """One process. `ready` once it has loaded."""

    def __init__(self, target: str, config: Any) -> None:
        self.ready = False
        self._child = Child("omnicap_cli.engines.processes.worker:main", target)
        self.send, self.kill, self.death = self._child.send, self._child.kill, self._child.death
        self.send(config)

    @property
    def alive(self) -> bool:
        return self._child.alive

    def receive(self) -> list[Result]:
        """The results of the oldest task sent. Raises the EngineError that the process met, or ChildDiedError."""
        if not self.ready:
            self._expect_ready()
        results: list[Result] | EngineError = self._child.receive()
        if isinstance(results, EngineError):
            raise results
        return results

    def _expect_ready(self) -> None:
        answer = self._child.receive()
        if answer != READY:
            raise answer if isinstance(answer, EngineError) else EngineError(str(answer))
        self.ready = True
