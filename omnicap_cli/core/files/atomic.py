"""Files that are either the old one or the new one, never half of it. It knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from omnicap_cli.errors import JournalWriteError, OmnicapError

PARTIAL_SUFFIX: Final = ".partial"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Written beside the target, fsynced, renamed over it; then the folder is fsynced, so that the new name survives
    a power cut. Links are followed, and the old file's mode is kept.
    """
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            partial.chmod(target.stat().st_mode)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """As `replacing`, for what a user asked for: its folder is made. Raises JournalWriteError."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """What the system says while `path` is written becomes a JournalWriteError that names it."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def read_errors(path: Path, kind: type[OmnicapError], *, hint: str | None = None) -> Iterator[None]:
    """What the system says while `path` is read becomes an error of the `kind`."""
    try:
        yield
    except OSError as error:
        raise kind(f"can't read {error.filename or path}: {error.strerror or error}", hint=hint) from error


def write_error(path: Path, error: OSError) -> JournalWriteError:
    """What the user is told when the disk doesn't take something."""
    return JournalWriteError(
        f"can't write {path}: {error.strerror or error}",
        hint="Mend that, or choose another place. What is in it already is kept.",
    )


def remove_leftovers(target: Path, *, is_locked: bool = False) -> None:
    """Remove what a process of this machine that was killed left where it wrote to `target`.

    Where `is_locked` nobody else can be writing, though a process that was just killed may still be seen.
    """
    start = f".{target.name}."
    with contextlib.suppress(OSError):  # no such folder, or none to be listed
        for name in os.listdir(target.parent):
            number = name.removeprefix(start).removesuffix(PARTIAL_SUFFIX)
            if name != f"{start}{number}{PARTIAL_SUFFIX}" or not number.isdecimal():
                continue
            if is_locked or not is_running(int(number)):
                (target.parent / name).unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
