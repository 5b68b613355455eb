"""Ctrl-C and SIGTERM: the first asks a run to end, the second ends it. It knows signals, not what is running."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_SHOW_CURSOR: Final = b"\x1b[?25h\r\n"


class Interrupts:
    """`stop` is set by the first signal; `exit_code` is then 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.exit_code: int | None = None


@contextlib.contextmanager
def graceful(on_first: Callable[[], None], on_second: Callable[[], None]) -> Iterator[Interrupts]:
    """Within the block a first signal sets `stop`; a second calls `on_second` and ends the process at once."""
    interrupts = Interrupts()

    def handle(number: int, _frame: FrameType | None) -> None:
        if interrupts.exit_code is not None:
            on_second()
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)  # which a progress bar hides
            os._exit(128 + number)
        interrupts.exit_code = 128 + number
        # in a thread, because the main thread may be in the middle of the same call, holding its lock
        threading.Thread(target=interrupts.stop.set, daemon=True).start()
        on_first()

    earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
