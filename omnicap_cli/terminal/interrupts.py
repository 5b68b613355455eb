"""Ctrl-C and SIGTERM: the first asks a run to end, the second ends it. It knows signals, not what is running."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

ECHO_SECONDS: Final = 0.5  # `timeout`, launchers and terminals tell a process and its group besides: once is meant
_SHOW_CURSOR: Final = b"\x1b[?25h\r\n"


class Interrupts:
    """`stop` is set by the first signal; `exit_code` is then 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.exit_code: int | None = None


@contextlib.contextmanager
def catching_signals(
    on_first: Callable[[], None], on_second: Callable[[], None] = lambda: None
) -> Iterator[Interrupts]:
    """Within the block a first signal sets `stop`; a second calls `on_second` and ends the process at once.

    One that comes within ECHO_SECONDS of the first is taken for the same.
    """
    interrupts = Interrupts()
    first_at = 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        if interrupts.exit_code is not None:
            if time.monotonic() - first_at < ECHO_SECONDS:
                return
            on_second()
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)  # which a progress bar hides
            os._exit(128 + number)
        interrupts.exit_code, first_at = 128 + number, time.monotonic()
        # in a thread, because the main thread may be in the middle of the same call, holding its lock
        threading.Thread(target=interrupts.stop.set, daemon=True).start()
        on_first()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
