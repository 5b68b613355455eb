"""What a captioning run tells as it goes on and at its end: to the terminal, and in the note beside its journal.

It decides nothing about the run.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Final

from omnicap_cli.core.files.words import duration, printable
from omnicap_cli.core.runs.pipeline import RunTally
from omnicap_cli.core.runs.records import Request, Result
from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.terminal.console import Console
from omnicap_cli.terminal.progress import make_progress

_MAX_SHOWN_ERRORS: Final = 10
_NOTE_SECONDS: Final = 2.0


class RunReport:
    """Takes each result; with `journal`, keeps the note of `meta` beside it fresh."""

    def __init__(
        self, console: Console, *, on_terminal: bool, meta: RunMeta | None = None, journal: Path | None = None
    ) -> None:
        self._console = console
        self._progress = make_progress(console, on_terminal=on_terminal)
        self._meta, self._journal = meta or RunMeta(), journal
        self._num_shown_errors = 0

    def __enter__(self) -> RunReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def take(self, request: Request, result: Result, tally: RunTally) -> None:
        """Tell of one result."""
        if result.error:
            self._show_error(request, result.error.message)
        else:
            name = f"{printable(request.item.id)} ({request.prompt.style}/{request.prompt.lang})"
            self._console.detail(f"{name}: {result.output_tokens} tokens in {result.seconds:.2f} s")
        self._progress.update(
            num_finished=tally.num_finished, num_handled=tally.num_handled, num_failed=tally.num_failed
        )
        self._meta_counts(tally)
        if self._journal and time.time() - self._meta.updated > _NOTE_SECONDS:
            self._meta.refresh(self._journal)

    def set_total(self, num_requests: int) -> None:
        """How many requests there are in all, once they are counted."""
        self._meta.num_requests = self._progress.num_total = num_requests
        self._meta.updated = 0.0  # so that the next result takes it into the note

    def end(self, tally: RunTally, *, whole: bool) -> None:
        """The last counts; a `whole` run has planned every request there is."""
        self._meta_counts(tally)
        if whole:
            self._meta.num_requests = tally.num_planned

    def _meta_counts(self, tally: RunTally) -> None:
        self._meta.num_finished, self._meta.num_handled = tally.num_finished, tally.num_handled
        self._meta.num_failed = tally.num_failed + tally.num_failed_before

    def _show_error(self, request: Request, message: str) -> None:
        self._num_shown_errors += 1
        if self._num_shown_errors <= _MAX_SHOWN_ERRORS:
            self._console.warning(f"{printable(request.item.id)}: {message}")
        elif self._num_shown_errors == _MAX_SHOWN_ERRORS + 1:
            self._console.warning("more items fail; their records say why")


def outcome_line(tally: RunTally, output: Path | None, *, seconds: float) -> str:
    """The outcome of a run in one line."""
    if not tally.num_finished and tally.num_handled == tally.num_planned > 0:
        failed = f", {tally.num_failed_before:,} of them as errors (--retry-failed)" if tally.num_failed_before else ""
        return f"nothing to do: all {tally.num_planned:,} are already in {output}{failed}"
    parts = [f"{tally.num_ok:,} captioned in {duration(seconds)} ({tally.num_ok / seconds:.1f}/s)"]
    if tally.num_failed:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(tally.errors.items()))
        parts.append(f"{tally.num_failed:,} failed ({kinds})")
    if tally.num_done_before:
        parts.append(f"{tally.num_done_before:,} done before")
    if tally.num_failed_before:
        parts.append(f"{tally.num_failed_before:,} failed before (--retry-failed tries them again)")
    return ", ".join(parts) + (f" → {output}" if output else "")
