"""The inside of a process of a WorkerPool, which runs `main` with MODULE:CLASS as the only argument.

It reads tasks from its standard input and writes results to its standard output, both pickled, and ends when its
input does. Nothing that a library prints gets out of it.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator
from typing import IO, Any, Protocol

from omnicap_cli.core.records import Request, Result
from omnicap_cli.engines.worker_pool import READY, Task
from omnicap_cli.errors import EngineError, InferenceError, ItemError


class Worker(Protocol):
    """What MODULE:CLASS makes from the pool's `config`."""

    def answer(self, request: Request, pixels: Any) -> Result:
        """The result of one request, given the decoded pixels of its item."""
        ...


def main() -> None:
    """Serve until the input ends."""
    tasks, results = _private_pipes()
    config = pickle.load(tasks)
    worker, ready = _load(sys.argv[1], config)
    _send(results, ready)
    if worker is not None:
        try:
            _serve(worker, tasks, results)
        except EngineError as error:
            _send(results, error)


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the pool, out of reach of libraries: their standard streams lead nowhere."""
    tasks, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1) if os.environ.get("OMNICAP_DEBUG") else (0, 1, 2):
        os.dup2(nowhere, standard)
    return tasks, results


def _load(target: str, config: Any) -> tuple[Worker | None, str | EngineError]:
    try:
        module, name = target.split(":")
        worker: Worker = getattr(importlib.import_module(module), name)(config)
    except EngineError as error:
        return None, error
    except Exception as error:  # noqa: BLE001  whatever keeps a model from loading is told to the user
        return None, EngineError(f"the model doesn't load: {type(error).__name__}: {error}", hint=_where(error))
    return worker, READY


def _serve(worker: Worker, tasks: IO[bytes], results: IO[bytes]) -> None:
    from omnicap_cli.media.decode import Pixels, decode, decode_ahead

    def decode_task(task: Task) -> Pixels:
        return decode(task[0].item, task[0].settings)

    for task, pixels in decode_ahead(_tasks(tasks), decode_task):
        _send(results, [_answer(worker, request, pixels) for request in task])


def _answer(worker: Worker, request: Request, pixels: Any) -> Result:
    if isinstance(pixels, ItemError):
        return Result.failed(request, pixels)
    started = time.monotonic()
    try:
        return worker.answer(request, pixels)
    except ItemError as error:
        return Result.failed(request, error, seconds=time.monotonic() - started)
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001  one item that a model chokes on doesn't end the run
        failure = InferenceError(f"the model failed on it: {type(error).__name__}: {str(error)[:300]}")
        return Result.failed(request, failure, seconds=time.monotonic() - started)


def _tasks(pipe: IO[bytes]) -> Iterator[Task]:
    while True:
        try:
            yield pickle.load(pipe)
        except EOFError:
            return


def _send(pipe: IO[bytes], message: Any) -> None:
    try:
        pickle.dump(message, pipe)
        pipe.flush()
    except BrokenPipeError:  # the pool is gone, and with it whoever wanted the answer
        os._exit(0)


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised in {frame.filename}:{frame.lineno}"
