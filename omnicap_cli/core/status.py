"""What a journal and the note beside it say of a run. It reads both without touching them."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnicap_cli.core.journal import read_lines
from omnicap_cli.core.keyindex import KeyIndex
from omnicap_cli.core.run_meta import RunMeta
from omnicap_cli.errors import JournalError


@dataclass(slots=True, kw_only=True)
class Status:
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


def read_status(path: Path) -> Status:
    """The status of the journal at `path`. Raises JournalError where there is none."""
    status = Status(journal=str(path))
    try:
        _count_records(path, status)
    except OSError as error:
        hint = "Give the JSONL file that `omnicap caption -o` writes."
        raise JournalError(f"can't read {path}: {error.strerror}", hint=hint) from error
    if status.num_broken_lines and not status.num_ok + status.num_failed:
        raise JournalError(f"{path} is not a journal: nothing in it is a record of omnicap")
    meta = RunMeta.read(path)
    if meta:
        _add_run(meta, status)
    return status


def _count_records(path: Path, status: Status) -> None:
    """Of several records of a request the last counts: the kind (and tokens) counted before are taken back."""
    kinds: list[str | None] = [None]  # the place of a kind is its number; ok is 0
    counts: Counter[int] = Counter()
    latest = KeyIndex()
    with path.open("rb", buffering=1 << 20) as file:
        for line in read_lines(file):
            if line.record is None:
                status.num_broken_lines += bool(line.raw.strip())
                continue
            kind = _kind(line.record)
            if kind not in kinds:
                kinds.append(kind)
            number, tokens = kinds.index(kind), _num_tokens(line.record)
            before = latest.get(line.key)
            if before is not None:
                counts[before & 0xFF] -= 1
                status.num_output_tokens -= before >> 8
            counts[number] += 1
            status.num_output_tokens += tokens
            latest.set(line.key, tokens << 8 | number)
    status.num_ok = counts.pop(0, 0)
    status.errors = {str(kinds[number]): count for number, count in counts.most_common() if count}
    status.num_failed = sum(status.errors.values())


def _num_tokens(record: dict[str, Any]) -> int:
    value = record.get("output_tokens")
    return value if isinstance(value, int) and value > 0 else 0


def _kind(record: dict[str, Any]) -> str | None:
    if record["status"] == "ok":
        return None
    error = record.get("error")
    return str(error.get("kind")) if isinstance(error, dict) else "unknown"


def _add_run(meta: RunMeta, status: Status) -> None:
    status.state = "killed" if meta.state == "running" and not _is_alive(meta) else meta.state
    now = time.time() if status.state == "running" else meta.ended or meta.updated
    status.seconds = max(0.0, round(now - meta.started, 1))
    status.num_requests, status.num_handled = meta.num_requests, meta.num_handled
    status.num_run_failed = meta.num_failed
    if meta.num_requests is not None:
        status.num_left = max(0, meta.num_requests - meta.num_handled)
    if meta.num_finished and status.seconds:
        status.rate = round(meta.num_finished / max(meta.updated - meta.started, 1e-9), 3)
        if status.state == "running" and status.num_left is not None:
            status.seconds_left = round(status.num_left / status.rate, 1) if status.rate else None


def _is_alive(meta: RunMeta) -> bool:
    """Whether the process still runs; on another machine only the note can tell."""
    if meta.host != socket.gethostname():
        return True
    try:
        os.kill(meta.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
