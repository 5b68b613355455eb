"""A Python process of our own for native code that a broken file can crash: its death costs that file, not the run.

Both sides speak in pickles, through pipes that nothing else can reach. It knows nothing of what they say.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

# not `-m`, which looks for modules in the current folder first: that may be somebody's data set
_START: Final = (
    "import signal, sys; [signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)];"
    " sys.path[:] = {path!r}; from {module} import {function}; {function}()"
)


class ChildDiedError(Exception):
    """The process is gone; the message says how."""


class Child:
    """A process that runs `target` ("module:function") without arguments; `words` are its sys.argv.

    `environment` are variables to set in it beside our own.
    """

    def __init__(self, target: str, *words: str, environment: Mapping[str, str] | None = None) -> None:
        module, function = target.split(":")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path, module=module, function=function), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the process that the user started; it tells this one
        )

    def send(self, message: Any) -> None:
        """A process that is gone is noticed by `receive`."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError, ValueError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def receive(self) -> Any:
        """The next message. Raises ChildDiedError if there will be none."""
        assert self._process.stdout
        try:
            return pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
            raise ChildDiedError(self.death()) from error

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def death(self) -> str:
        """How the process ended, in words; waits until it has."""
        code = self._process.wait()
        if code == -9:
            return "killed, probably because memory ran out"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def private_pipes() -> tuple[IO[bytes], Callable[[Any], None]]:
    """For the process itself: what comes from the parent, and `send`, which answers, from any thread.

    Its standard streams lead nowhere from now on, so that nothing that a library prints gets out.
    """
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1) if os.environ.get("OMNICAP_DEBUG") else (0, 1, 2):
        os.dup2(nowhere, standard)

    sending = threading.Lock()

    def send(message: Any) -> None:
        try:
            with sending:
                pickle.dump(message, outgoing)
                outgoing.flush()
        except BrokenPipeError:  # the parent is gone, and with it whoever wanted the answer
            os._exit(0)

    return incoming, send
