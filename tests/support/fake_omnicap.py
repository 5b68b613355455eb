"""The real command line with one more engine, `--engine fake`; FAKE_DEATH names a moment at which it kills itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from omnicap_cli import app
from omnicap_cli.core.files.atomic import replacing
from omnicap_cli.core.runs import journal
from omnicap_cli.engines.registry import ENGINES, EngineSpec

COMPACTION_DEATHS = ("compaction begins", "compaction writes", "compaction ends", "compaction is done")


def die() -> None:
    """As the kernel does it when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyFile:
    """A file that kills the process at the third write, what was written so far on the disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._num_writes = 0

    def write(self, content: bytes) -> int:
        self._num_writes += 1
        if self._num_writes == 3:
            self._file.flush()
            die()
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def dying(moment: str) -> Any:
    """A `replacing` that doesn't survive `moment`."""

    @contextlib.contextmanager
    def replacing_and_dying(path: Path) -> Iterator[Any]:
        if moment == "compaction begins":
            die()
        with replacing(path) as file:
            yield DeadlyFile(file) if moment == "compaction writes" else file
            if moment == "compaction ends":
                die()
        if moment == "compaction is done":
            die()

    return replacing_and_dying


if __name__ == "__main__":
    ENGINES["fake"] = EngineSpec(module="fake_engine", extra=None, reads=None)
    if death := os.environ.get("FAKE_DEATH"):
        assert death in COMPACTION_DEATHS
        journal.replacing = dying(death)
    app.main()
