"""Folders that are either the old one or the new one, never half of it. It knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from omnicap_cli.core.files.atomic import PARTIAL_SUFFIX, sync_folder


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path` when the block ends well, and vanishes when it does not.

    It is beside the target, and on the disk with all that is in it before it gets the name. What had the name stays
    until then, and is deleted after. Links are followed.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that had the same number, and was killed
        partial.mkdir()
        yield partial
        sync_tree(partial)
        _put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def leftover_folders(path: Path) -> list[Path]:
    """What `replacing_folder` left beside `path` where it was killed; or what one that is at work now has there."""
    target = path.resolve()
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL_SUFFIX}"))


def _put_in_place(made: Path, target: Path) -> None:
    """A folder can't be renamed over one that has something in it, so that one is moved aside, and back on failure."""
    if not target.exists():
        made.rename(target)
    else:
        aside = made.with_name(f"{made.name.removesuffix(PARTIAL_SUFFIX)}.old{PARTIAL_SUFFIX}")
        target.rename(aside)
        try:
            made.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(target.parent)


def sync_tree(folder: Path) -> None:
    """Everything in a folder on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))
