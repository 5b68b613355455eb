"""The inside of a child of a Pool: loads its target, and hands it tasks. It knows neither, and ends with its parent."""

from __future__ import annotations

import enum
import importlib
import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from omnicap_cli.core.files.words import with_class_name
from omnicap_cli.core.workers.child import private_pipes
from omnicap_cli.errors import EngineError, OmnicapError

READY: Final = "ready"  # what a child says when its target has loaded


class End(enum.Enum):
    """There will be no more tasks. With `AT_ONCE` the target's `stop` is set: it need not finish those in hand."""

    AFTER_ALL = enum.auto()
    AT_ONCE = enum.auto()


class Assignment(NamedTuple):
    """A task from the parent, or what it tells all children, which is not answered.

    `say` takes what is to be heard of it while it goes on, and `answer` the last.
    """

    content: Any
    say: Callable[[Any], None]
    answer: Callable[[Any], None]


Work = Callable[[Iterator[Assignment], threading.Event], None]


def answering(function: Callable[[Any], Any]) -> Work:
    """What does one task after the other: `function` turns it into its answer."""

    def work(assignments: Iterator[Assignment], _stop: threading.Event) -> None:
        for assignment in assignments:
            assignment.answer(function(assignment.content))

    return work


def main() -> None:
    """Load the target, "module:function", which is the only argument, and serve until no more is wanted."""
    incoming, send = private_pipes()
    stop = threading.Event()
    assignments: queue.SimpleQueue[Assignment | None] = queue.SimpleQueue()

    def say(number: int, is_last: bool, message: Any) -> None:
        send((number, message, is_last))

    def listen() -> None:
        """Take in at once all that the parent says, which then never waits for long."""
        try:
            while True:
                number, content = pickle.load(incoming)
                if content is End.AT_ONCE:
                    stop.set()
                is_end = isinstance(content, End)
                assignment = Assignment(content, partial(say, number, False), partial(say, number, True))
                assignments.put(None if is_end else assignment)
        finally:
            os._exit(1)  # with the parent, whatever the target is busy with

    problem = "doesn't load"
    try:
        config = pickle.load(incoming)
        threading.Thread(target=listen, name="listen", daemon=True).start()
        module, function = sys.argv[1].split(":")
        work: Work = getattr(importlib.import_module(module), function)(config)
        send(READY)
        problem = "failed"
        work(iter(assignments.get, None), stop)
    except OmnicapError as error:
        send(error)
    except Exception as error:  # noqa: BLE001  told to the user by the parent
        place = traceback.extract_tb(error.__traceback__)[-1]
        hint = f"raised in {place.filename}:{place.lineno}"
        send(EngineError(f"a process {problem}: {with_class_name(error)}", hint=hint))
    os._exit(0)  # what libraries do at an exit takes time
