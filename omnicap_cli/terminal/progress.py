"""How far a run is: a bar on a terminal, elsewhere a line every 30 seconds. It knows counts, not what is counted."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from omnicap_cli.core.files.words import duration
from omnicap_cli.terminal.console import Console

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_SECONDS: Final = 30.0


class Progress:
    """Of `num_total` requests (None until counted) those finished by this run; and those handled by it or before.

    `details` is whatever else there is to tell.
    """

    def __init__(self, console: Console) -> None:
        self.num_total: int | None = None
        self.num_finished = self.num_handled = self.num_failed = 0
        self.details = ""
        self._console = console
        self._first: float | None = None

    def update(self, *, num_finished: int, num_handled: int, num_failed: int) -> None:
        """Take in the newest counts."""
        self._first = self._first or time.monotonic()
        self.num_finished, self.num_handled, self.num_failed = num_finished, num_handled, num_failed

    def line(self) -> str:
        """The counts, the rate of this run and the time left, as one line."""
        since_first = time.monotonic() - (self._first or 0.0)
        rate = (self.num_finished - 1) / since_first if self.num_finished > 1 else 0.0  # loading is no work
        parts = [f"{self.num_handled:,}" + (f" of {self.num_total:,}" if self.num_total is not None else "")]
        if self.num_failed:
            parts.append(f"{self.num_failed:,} failed")
        if rate:
            parts.append(f"{rate:.1f}/s")
        if self.num_total is not None and rate:
            parts.append(f"{duration((self.num_total - self.num_handled) / rate)} left")
        if self.details:
            parts.append(self.details)
        return ", ".join(parts)

    def stop(self) -> None:
        """Nothing more will be shown."""


class _ProgressLines(Progress):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._stopped = threading.Event()
        threading.Thread(target=self._tick, name="progress", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _tick(self) -> None:
        while not self._stopped.wait(LINE_SECONDS):
            self._console.info(self.line())


class _ProgressBar(Progress):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        import rich.console
        import rich.progress

        terminal = rich.console.Console(stderr=True, no_color=console.no_color or None)
        columns = (rich.progress.TextColumn("{task.fields[line]}"), rich.progress.BarColumn(bar_width=24))
        self._bar = rich.progress.Progress(*columns, console=terminal, transient=True, redirect_stdout=False)
        self._task: TaskID = self._bar.add_task("", total=None, line="")
        self._bar.start()

    def update(self, *, num_finished: int, num_handled: int, num_failed: int) -> None:
        super().update(num_finished=num_finished, num_handled=num_handled, num_failed=num_failed)
        self._bar.update(self._task, completed=num_handled, total=self.num_total, line=self.line())

    def stop(self) -> None:
        self._bar.stop()


def make_progress(console: Console, *, on_terminal: bool) -> Progress:
    """A bar if `on_terminal`, else lines; nothing with --quiet."""
    kind = Progress if console.level < 1 else _ProgressBar if on_terminal else _ProgressLines
    return kind(console)
