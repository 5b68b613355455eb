"""What is written beside a journal about the run that wrote it, for `status`, and for people later on."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from omnicap_cli import __version__
from omnicap_cli.core.files.atomic import is_running, replacing, write_errors
from omnicap_cli.core.files.words import without_surrogates
from omnicap_cli.errors import JournalWriteError

State = Literal["running", "finished", "interrupted", "failed"]
JOURNAL_SUFFIXES: Final = (".jsonl", ".ndjson")


def journal_beside(output: Path) -> Path:
    """Where the journal of an output in another form is."""
    if output.name in ("", ".."):
        return output / "captions.journal.jsonl"
    return output.with_name(f"{output.name}.journal.jsonl")


def find_journal(path: Path) -> Path:
    """The journal that a user means by `path`: the one beside an export, if there is one, else `path` itself."""
    with contextlib.suppress(OSError):
        if journal_beside(path).exists():
            return journal_beside(path)
    return path


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


@dataclass(slots=True, kw_only=True)
class RunMeta:
    """The latest run of a journal. Times are seconds since 1970.

    `num_requests` is None until all are counted. When the note was `updated`, `num_handled` of them were done before
    or finished, `num_finished` by this run, and `num_failed` were on record as errors. `shard` is what `--shard` said;
    relative paths of pictures count from `folder`.
    """

    state: str = "running"
    command: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    omnicap: str = __version__
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.time)
    updated: float = 0.0
    ended: float | None = None
    num_requests: int | None = None
    num_handled: int = 0
    num_finished: int = 0
    num_failed: int = 0
    shard: str | None = None
    folder: str | None = field(default_factory=_current_folder)

    @property
    def state_now(self) -> str:
        """`state`, or killed where the process that would have noted its end is gone."""
        is_gone = self.host == socket.gethostname() and not is_running(self.pid)  # elsewhere only the note can tell
        return "killed" if self.state == "running" and is_gone else self.state

    @property
    def num_left(self) -> int | None:
        """How many requests were neither done nor failed, or None until all are counted."""
        return None if self.num_requests is None else max(0, self.num_requests - self.num_handled)

    @staticmethod
    def path_of(journal: Path) -> Path:
        """Where the meta file of a journal is."""
        target = journal.resolve()  # beside the file itself, not beside a link to it
        return target.with_name(target.name + ".meta.json")

    def write(self, journal: Path) -> None:
        """Put it beside the journal, replacing that of the run before. Raises JournalWriteError."""
        self.updated = time.time()
        text = orjson.dumps(without_surrogates(asdict(self)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        with write_errors(self.path_of(journal)), replacing(self.path_of(journal)) as file:
            file.write(text)

    def end(self, state: State, journal: Path) -> None:
        """Note how the run ended. A disk that doesn't take the note doesn't hide that."""
        self.state, self.ended = state, time.time()
        self.refresh(journal)

    def refresh(self, journal: Path) -> None:
        """Write it again. A disk that doesn't take a note is no reason to end a run."""
        with contextlib.suppress(JournalWriteError):
            self.write(journal)

    @classmethod
    def read(cls, journal: Path) -> RunMeta | None:
        """The meta file of a journal, or None where there is none that can be read."""
        import msgspec  # here, as most commands read no note

        try:
            values = msgspec.json.decode(cls.path_of(journal).read_bytes(), type=dict[str, Any])
            # every note says a state; earlier versions noted no folder, and it is not where we are now
            return msgspec.convert({"state": None, "folder": None} | values, cls)
        except (OSError, ValueError, RuntimeError, msgspec.MsgspecError):  # a RuntimeError for links in a circle
            return None
