"""Whether journals are the whole of a run, told by the notes beside them. It knows shards, and reads no record."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from omnicap_cli.core.files.atomic import read_errors
from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.files.outputs import lock_path
from omnicap_cli.core.files.words import listed, shortened
from omnicap_cli.core.runs.journal import JOURNAL_HINT
from omnicap_cli.core.runs.run_note import RunMeta, find_journal
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.errors import JournalError, JournalLockedError, JournalWriteError, OptionError

_MAX_SHARDS: Final = 1_000_000  # more are a mistake in a note, and naming what is missing would take all memory
_MAX_VALUE_CHARACTERS: Final = 60
_ENDS: Final = {"interrupted": "was interrupted", "killed": "was killed", "failed": "failed"}


def shard_of(meta: RunMeta | None) -> Shard | None:
    """The shard that a run was, or None."""
    try:
        shard = Shard.parse(meta.shard) if meta and meta.shard else None
    except (OptionError, ValueError):  # ValueError: more digits than Python reads
        return None
    return shard if shard and shard.num_shards <= _MAX_SHARDS else None


def missing_shards(shards: Iterable[Shard]) -> list[Shard]:
    """Those that there must be too, as the counts of the given ones say."""
    given = set(shards)
    counts = sorted({shard.num_shards for shard in given})
    return [each for count in counts for each in (Shard(index, count) for index in range(count)) if each not in given]


def describe_shards(shards: Iterable[Shard]) -> str:
    """Shards as a person names them: shards 3 and 5 of 8."""
    indices: dict[int, list[str]] = {}
    for shard in shards:
        indices.setdefault(shard.num_shards, []).append(str(shard.index))
    parts = (f"shard{'s' if len(of) > 1 else ''} {listed(of)} of {count}" for count, of in indices.items())
    return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSource:
    """One journal of several, and what the note beside it says. `state` is that of its latest run, or unknown."""

    path: Path
    file: os.stat_result
    meta: RunMeta | None
    shard: Shard | None
    state: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{describe_shards([self.shard])} ({self.path})" if self.shard else str(self.path)

    @property
    def place(self) -> tuple[bool, int, int]:
        """What orders sources: shards by their number, then all others."""
        return (False, self.shard.num_shards, self.shard.index) if self.shard else (True, 0, 0)

    @property
    def is_unfinished(self) -> bool:
        """Whether its note says that there is more to come."""
        return self.state not in ("finished", "unknown")

    @property
    def num_left(self) -> int | None:
        """How many requests its run has not handled, None if nobody knows; a run without a note left nothing."""
        if not self.is_unfinished:
            return 0
        is_noted = self.meta is not None and self.meta.state_now == self.state  # a run that just began has no note yet
        return self.meta.num_left if self.meta and is_noted else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What keeps journals from being a whole run, and in `problems` the same in words, with what is there twice."""

    missing: list[Shard] = field(default_factory=list)
    unfinished: list[JournalSource] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def num_left(self) -> int | None:
        """How many requests of the whole run have no record, or None if nobody knows."""
        known = [source.num_left for source in self.unfinished if source.num_left is not None]
        return None if self.missing or len(known) < len(self.unfinished) else sum(known)


def read_sources(paths: Iterable[Path]) -> list[JournalSource]:
    """The journals at `paths`, or beside the exports there. Raises JournalError for what can't be one."""
    return [_read_source(find_journal(path)) for path in paths]


def find_gaps(sources: Sequence[JournalSource]) -> Gaps:
    """What the notes say is not there, not finished, or there twice."""
    shards = [source.shard for source in sources if source.shard]
    gaps = Gaps(missing=missing_shards(shards), unfinished=[source for source in sources if source.is_unfinished])
    counts = sorted({shard.num_shards for shard in shards})
    if len(counts) > 1:
        gaps.problems.append(f"not shards of one run: some are of {listed([str(count) for count in counts])}")
    if gaps.missing:
        gaps.problems.append(f"missing: {describe_shards(gaps.missing)}")
    gaps.problems.extend(_journals_given_twice(sources))
    gaps.problems.extend(f"{source.name} {_how_it_ended(source)}" for source in gaps.unfinished)
    return gaps


def find_differences(sources: Sequence[JournalSource]) -> list[str]:
    """What was not the same for all runs: a sentence for each setting."""
    found = []
    settings = [(source, _settings_to_compare(source.meta)) for source in sources if source.meta]
    for name in dict.fromkeys(name for _, noted in settings for name in noted):
        names: dict[bytes, list[str]] = {}
        for source, noted in settings:
            names.setdefault(orjson.dumps(noted.get(name)), []).append(str(source.path))
        if len(names) > 1:
            values = (
                f"{shortened(value.decode(), _MAX_VALUE_CHARACTERS)} in {listed(of, max_shown=2)}"
                for value, of in names.items()
            )
            found.append(f"{name} is not the same everywhere: {listed(list(values), max_shown=3)}")
    return found


def common_settings(sources: Sequence[JournalSource]) -> dict[str, Any]:
    """The settings that all runs noted, and noted alike."""
    noted = [source.meta.settings for source in sources if source.meta]
    if not noted:
        return {}
    return {
        name: value for name, value in noted[0].items() if all(name in of and of[name] == value for of in noted[1:])
    }


def common_folder(sources: Sequence[JournalSource]) -> str | None:
    """The folder that relative paths count from, if it is the same for all journals."""
    folders = {source.meta.folder if source.meta else None for source in sources}
    return folders.pop() if len(folders) == 1 else None


def _read_source(path: Path) -> JournalSource:
    with read_errors(path, JournalError, hint=JOURNAL_HINT):
        file = path.stat()
    if not stat.S_ISREG(file.st_mode):
        raise JournalError(f"can't read {path}: not a file", hint="Merging reads each journal twice.")
    meta = RunMeta.read(path)
    state = "running" if _is_locked(path) else meta.state_now if meta else "unknown"
    return JournalSource(path=path, file=file, meta=meta, shard=shard_of(meta), state=state)


def _is_locked(journal: Path) -> bool:
    """Whether a process has it open for writing; makes no lock file where there is none."""
    if not lock_path(journal).exists():
        return False
    try:
        with hold_lock(lock_path(journal), what=journal):
            return False
    except JournalLockedError:
        return True
    except JournalWriteError:  # someone else's, in a folder that may only be read: the note has to do
        return False


def _journals_given_twice(sources: Sequence[JournalSource]) -> Iterator[str]:
    """Files and shards that were given more than once."""
    files: dict[tuple[int, int], list[JournalSource]] = {}
    for source in sources:
        files.setdefault((source.file.st_dev, source.file.st_ino), []).append(source)
    shards: dict[Shard, list[str]] = {}
    for first, *others in files.values():
        if others:
            yield f"{first.name} is given {len(others) + 1} times"
        if first.shard:
            shards.setdefault(first.shard, []).append(str(first.path))
    for shard, paths in shards.items():
        if len(paths) > 1:
            yield f"{describe_shards([shard])} is given {len(paths)} times: {listed(paths)}"


def _how_it_ended(source: JournalSource) -> str:
    if source.state == "running":
        where = f" on {source.meta.host}" if source.meta and source.meta.state == "running" else ""
        how = f"is still running{where}"
    else:
        how = _ENDS.get(source.state, f"is {source.state}")
    return how + (f", {source.num_left:,} left" if source.num_left is not None else "")


def _settings_to_compare(meta: RunMeta) -> dict[str, Any]:
    """What should be the same. Shards are parts of the same inputs, other runs may be of any."""
    noted = meta.settings | {"folder": meta.folder}
    return noted if meta.shard else {name: value for name, value in noted.items() if name != "inputs"}
