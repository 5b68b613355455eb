"""What journals and the notes beside them say of a run. It reads both without touching them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from omnicap_cli.core.files.atomic import read_errors
from omnicap_cli.core.runs.journal import JOURNAL_HINT, read_lines
from omnicap_cli.core.runs.key_index import KeyIndex
from omnicap_cli.core.runs.run_note import RunMeta, find_journal
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.core.runs.shard_gaps import missing_shards, shard_of
from omnicap_cli.errors import JournalError

_MAX_KINDS: Final = 254
_MAX_TOKENS: Final = 1 << 48  # more are a mistake in the file, and no number of a KeyIndex


@dataclass(slots=True, kw_only=True)
class RunStatus:
    """Counts of the newest record of each request in the journal, and of the latest run.

    `state` is that of the latest run: running, finished, interrupted, failed, killed, or unknown. `num_requests`,
    `num_handled`, `num_run_failed` and `num_left` are of that run alone. `rate` is in requests per second.
    """

    journal: str
    state: str = "unknown"
    num_ok: int = 0
    num_failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    num_output_tokens: int = 0
    num_broken_lines: int = 0
    num_requests: int | None = None
    num_handled: int | None = None
    num_run_failed: int | None = None
    num_left: int | None = None
    rate: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None


@dataclass(slots=True, kw_only=True)
class StatusEntry:
    """One of several journals: its `status`, or in `error` why it has none."""

    journal: str
    shard: Shard | None = None
    status: RunStatus | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class StatusTotal:
    """The sums over journals, those left out that can't be read. A sum is None if one of its parts is not known.

    `rate`, in requests per second, and `seconds_left` are of what is running: shards run side by side, so the slowest
    decides. `missing_shards` are those that no journal was given of.
    """

    num_journals: int = 0
    num_unreadable: int = 0
    states: dict[str, int] = field(default_factory=dict)
    num_ok: int = 0
    num_failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    num_output_tokens: int = 0
    num_broken_lines: int = 0
    num_requests: int | None = None
    num_handled: int | None = None
    num_left: int | None = None
    rate: float | None = None
    seconds_left: float | None = None
    missing_shards: list[Shard] = field(default_factory=list)


class RecordKinds:
    """A number up to 254 for each way in which records end: 0 is ok, each other a kind of error."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {None: 0}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, record: Mapping[str, Any]) -> int:
        """The number of how `record` ended."""
        kind = _kind_of(record)
        if kind not in self._numbers and len(self._numbers) >= _MAX_KINDS:
            kind = "other"
        return self._numbers.setdefault(kind, len(self._numbers))

    def errors(self, counts: Mapping[int, int]) -> dict[str, int]:
        """From counts by number those of errors by their kind, the most frequent first."""
        kinds = {number: str(kind) for kind, number in self._numbers.items() if number}
        return {kinds[number]: count for number, count in Counter(counts).most_common() if number and count}


def read_statuses(paths: Iterable[Path]) -> list[StatusEntry]:
    """The status of each journal, or of the one beside an export; once, where both are given."""
    return [_read_status_entry(path) for path in dict.fromkeys(map(find_journal, paths))]


def total_of(entries: Iterable[StatusEntry]) -> StatusTotal:
    """What several journals come to."""
    entries = list(entries)
    statuses = [entry.status for entry in entries if entry.status]
    running = [status for status in statuses if status.state == "running"]
    waits = [status.seconds_left for status in running if status.seconds_left is not None]
    return StatusTotal(
        num_journals=len(entries),
        num_unreadable=len(entries) - len(statuses),
        states=dict(Counter(status.state for status in statuses)),
        num_ok=sum(status.num_ok for status in statuses),
        num_failed=sum(status.num_failed for status in statuses),
        errors=dict(sum((Counter(status.errors) for status in statuses), Counter()).most_common()),
        num_output_tokens=sum(status.num_output_tokens for status in statuses),
        num_broken_lines=sum(status.num_broken_lines for status in statuses),
        num_requests=_sum_of_known(status.num_requests for status in statuses),
        num_handled=_sum_of_known(status.num_handled for status in statuses),
        num_left=_sum_of_known(status.num_left for status in statuses),
        rate=round(sum(status.rate or 0.0 for status in running), 3) or None,
        seconds_left=max(waits, default=None) if len(waits) == len(running) else None,
        missing_shards=missing_shards(entry.shard for entry in entries if entry.shard),
    )


def _read_status_entry(path: Path) -> StatusEntry:
    entry = StatusEntry(journal=str(path), shard=shard_of(RunMeta.read(path)))
    try:
        entry.status = read_status(path)
    except JournalError as error:
        entry.error = error.message
    return entry


def _sum_of_known(values: Iterable[int | None]) -> int | None:
    """None if one of them is, or if there are none."""
    known = list(values)
    return None if None in known or not known else sum(filter(None, known))


def read_status(path: Path) -> RunStatus:
    """The status of the journal at `path`. Raises JournalError where there is none."""
    status = RunStatus(journal=str(path))
    with read_errors(path, JournalError, hint=JOURNAL_HINT):
        _count_records(path, status)
    if status.num_broken_lines and not status.num_ok + status.num_failed:
        raise JournalError(f"{path} is not a journal: nothing in it is a record of omnicap")
    meta = RunMeta.read(path)
    if meta:
        _add_run(meta, status)
    return status


def _count_records(path: Path, status: RunStatus) -> None:
    """Of several records of a request the last counts: the kind (and tokens) counted before are taken back."""
    kinds = RecordKinds()
    counts: Counter[int] = Counter()
    latest = KeyIndex()
    with path.open("rb", buffering=1 << 20) as file:
        for line in read_lines(file):
            if line.record is None:
                status.num_broken_lines += bool(line.raw.strip())
                continue
            number, tokens = kinds.number(line.record), _num_tokens(line.record)
            before = latest.get(line.key)
            if before is not None:
                counts[before & 0xFF] -= 1
                status.num_output_tokens -= before >> 8
            counts[number] += 1
            status.num_output_tokens += tokens
            latest.set(line.key, tokens << 8 | number)
    status.num_ok = counts[0]
    status.errors = kinds.errors(counts)
    status.num_failed = sum(status.errors.values())


def _num_tokens(record: dict[str, Any]) -> int:
    value = record.get("output_tokens")
    return value if isinstance(value, int) and 0 < value < _MAX_TOKENS else 0


def _kind_of(record: Mapping[str, Any]) -> str | None:
    if record["status"] == "ok":
        return None
    error = record.get("error")
    return str(error.get("kind")) if isinstance(error, dict) else "unknown"


def _add_run(meta: RunMeta, status: RunStatus) -> None:
    status.state = meta.state_now
    now = time.time() if status.state == "running" else meta.ended or meta.updated
    status.seconds = max(0.0, round(now - meta.started, 1))
    status.num_requests, status.num_handled = meta.num_requests, meta.num_handled
    status.num_run_failed, status.num_left = meta.num_failed, meta.num_left
    if status.num_left is not None:  # and what was on record when the run ended, and is no more
        num_lost = meta.num_handled - status.num_ok - status.num_failed
        status.num_left += max(0, num_lost) if status.state != "running" else 0
    if meta.num_finished and status.seconds:
        status.rate = round(meta.num_finished / max(meta.updated - meta.started, 1e-9), 3)
        if status.state == "running" and status.num_left is not None:
            status.seconds_left = round(status.num_left / status.rate, 1) if status.rate else None
