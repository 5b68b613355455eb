"""The inside of a process of a WorkerPool, which runs `main` with MODULE:CLASS as the only argument.

It reads tasks from its standard input and writes results to its standard output, both pickled, and ends when its
input does. Nothing that a library prints gets out of it.
"""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from omnicap_cli.core.files.words import with_class_name
from omnicap_cli.core.runs.records import Request, Result
from omnicap_cli.core.workers.child import messages, private_pipes
from omnicap_cli.engines.processes.worker_pool import READY, Task
from omnicap_cli.errors import EngineError, InferenceError, ItemError


class Worker(Protocol):
    """What MODULE:CLASS makes from the pool's `config`."""

    def answer(self, request: Request, pixels: Any) -> Result:
        """The result of one request, given the decoded pixels of its item."""
        ...


def main() -> None:
    """Serve until the input ends."""
    incoming, send = private_pipes()
    tasks = messages(incoming)
    worker, ready = _load(sys.argv[1], next(tasks))
    send(ready)
    if worker is not None:
        try:
            _serve(worker, tasks, send)
        except EngineError as error:
            send(error)


def _load(target: str, config: Any) -> tuple[Worker | None, str | EngineError]:
    try:
        module, name = target.split(":")
        worker: Worker = getattr(importlib.import_module(module), name)(config)
    except EngineError as error:
        return None, error
    except Exception as error:  # noqa: BLE001  whatever keeps a model from loading is told to the user
        return None, EngineError(f"the model doesn't load: {type(error).__name__}: {error}", hint=_where(error))
    return worker, READY


def _serve(worker: Worker, tasks: Iterator[Task], send: Callable[[Any], None]) -> None:
    from omnicap_cli.media.decode import Pixels, decode, decode_ahead

    def decode_task(task: Task) -> Pixels:
        return decode(task[0].item, task[0].settings)

    for task, pixels in decode_ahead(tasks, decode_task):
        send([_answer(worker, request, pixels) for request in task])


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
        failure = InferenceError(f"the model failed on it: {with_class_name(error)}")
        return Result.failed(request, failure, seconds=time.monotonic() - started)


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised in {frame.filename}:{frame.lineno}"
