"""The folder of a training run: checkpoints that are whole or not there, with a note of what they were made with."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omnicap_cli import __version__
from omnicap_cli.core.files.atomic import sync_folder
from omnicap_cli.core.files.folders import sync_tree
from omnicap_cli.core.files.words import gigabytes
from omnicap_cli.errors import OmnicapError
from omnicap_cli.training.collective import failing_in_all_processes

NOTE: Final = "omnicap.json"
_NAME: Final = re.compile(r"checkpoint-\d+")
_STAGING: Final = ".saving"
_PICKLE: Final = "training_args.bin"  # the Trainer's arguments, which nobody reads and opening would run code


class CheckpointError(OmnicapError):
    """A checkpoint that can't be written or read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Those in `folder`, of which the newest `keep` stay. `note` is written into each."""

    folder: Path
    keep: int
    note: Mapping[str, Any]

    @contextlib.contextmanager
    def saving(self, name: str, *, is_main: bool) -> Iterator[Path]:
        """A folder to save into that becomes the checkpoint `name` when the block ends well in all processes.

        Raises CheckpointError where a disk doesn't take it, in all processes, and leaves the checkpoints that are there
        as they were.
        """
        made = self.folder / _STAGING / name
        try:
            with failing_in_all_processes(), self._telling(name):
                if is_main:
                    shutil.rmtree(made.parent, ignore_errors=True)
                    made.mkdir(parents=True)
            with failing_in_all_processes(), self._telling(name):
                yield made
            with failing_in_all_processes(), self._telling(name):
                if is_main:
                    self._finish(made)
        except OmnicapError:
            if is_main:
                shutil.rmtree(made.parent, ignore_errors=True)
            raise

    @contextlib.contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        try:
            yield
        except OmnicapError:
            raise
        except Exception as error:  # of many kinds: each format has its own for a full disk
            latest = newest_checkpoint(self.folder)
            kept = f"{latest.name} is whole: the run goes on from there." if latest else "No checkpoint is there yet."
            free = f"{gigabytes(shutil.disk_usage(self.folder).free)} are free there"
            raise CheckpointError(f"{name} can't be saved in {self.folder}: {error} ({free})", hint=kept) from error

    def _finish(self, made: Path) -> None:
        (made / _PICKLE).unlink(missing_ok=True)
        _share(made)
        (made / NOTE).write_text(json.dumps(self.note, indent=1), "utf-8")
        sync_tree(made)
        made.rename(self.folder / made.name)
        sync_folder(self.folder)
        for old in list_checkpoints(self.folder)[: -self.keep]:
            old.rename(made.parent / old.name)  # gone at once, so that nobody reads half of it
        shutil.rmtree(made.parent, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted((path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=_step_of)


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of a folder, if there is one."""
    return max(list_checkpoints(folder), key=_step_of, default=None)


def read_note(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint was made with. Raises CheckpointError where it doesn't say."""
    try:
        note: dict[str, Any] = json.loads((checkpoint / NOTE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is no checkpoint of omnicap: it has no {NOTE} that can be read") from error
    return note


def make_note(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What to write into checkpoints: `config` as plain values, and the version."""
    return {"omnicap": __version__, "config": dict(config), **more}


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _share(folder: Path) -> None:
    """Give weights the mode of new files: safetensors makes them for the owner alone."""
    for path in folder.glob("*.safetensors"):
        path.chmod(folder.stat().st_mode & 0o666)
