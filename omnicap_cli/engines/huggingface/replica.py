"""The inside of a process of Replicas: an engine of its own, fed through a pipe. It knows no other process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from omnicap_cli.core.runs.records import Idle, Request
from omnicap_cli.core.workers.child import messages, private_pipes
from omnicap_cli.engines.huggingface.engine import HuggingFaceEngine
from omnicap_cli.engines.huggingface.replicas import DONE, End
from omnicap_cli.errors import EngineError, OmnicapError


def main() -> None:
    """Serve until all is answered, or the input ends."""
    incoming, send = private_pipes()
    said = messages(incoming)
    options = next(said)
    requests: queue.SimpleQueue[Request | Idle | None] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_read, args=(said, requests, stop), name="read", daemon=True).start()
    try:
        engine = HuggingFaceEngine(options)
        engine.warm_up()
        for result in engine.run(iter(requests.get, None), stop):
            send(result)
        send(DONE)
    except OmnicapError as error:
        send(error)
    except Exception as error:  # noqa: BLE001  told to the user by the process that started this one
        send(EngineError(f"the model failed: {type(error).__name__}: {error}"))


def _read(said: Iterator[Any], requests: queue.SimpleQueue[Request | Idle | None], stop: threading.Event) -> None:
    """Pass requests on as they come, and hear in time that no more are wanted."""
    for message in said:
        if isinstance(message, End):
            if message.at_once:
                stop.set()
            requests.put(None)
        else:
            requests.put(message)
    stop.set()  # the other process is gone
    requests.put(None)
