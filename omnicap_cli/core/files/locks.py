"""Locks between processes that make the same files. They end with the process, however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from omnicap_cli.core.files.atomic import write_error
from omnicap_cli.errors import JournalLockedError


@contextlib.contextmanager
def hold_lock(lock: Path, *, what: str | Path, waits: bool = False) -> Iterator[None]:
    """Hold the file `lock`, which is made where it is missing, while the block lasts.

    Where another process holds it, wait for that to end, or raise JournalLockedError, which calls it `what`. Raises
    JournalWriteError where it can't be made.
    """
    file = FileLock(lock, thread_local=False)  # whoever ends the block may be another thread
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = file.acquire(timeout=-1 if waits else 0)
    except Timeout as error:
        hint = "Wait for it to end, or choose another output."
        raise JournalLockedError(f"{what} is being made by another omnicap process", hint=hint) from error
    except OSError as error:
        raise write_error(lock, error) from error
    with held:
        yield
