"""What an earlier run left of the splits of a data set: whether it can be taken as it is, or is in the way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from omnicap_cli.core.journal import write_error
from omnicap_cli.errors import UsageError
from omnicap_cli.tokenizing.splits import Split, SplitNote, partial_of

_REMAKE: Final = "Pass --overwrite to make all of it again, or choose another --name or -o."
_SUFFIXES: Final = r"(\.jsonl(\.partial)?|(\.checkpoint)?\.json)"
_NAMES: Final = {
    "data": "the data",
    "splits": "the number of splits",
    "tokenizer": "the tokenizer",
    "chat_template": "the chat template",
    "pictures": "how pictures are cut (--min-pixels, --max-pixels, the model)",
    "clips": "how clips are cut",
    "task_type": "--task-type",
    "system_texts": "the system texts",
    "image_root": "--image-root",
    "max_length": "--max-length",
    "verify_images": "--verify-images",
}


def find_done(split: Split, settings: dict[str, Any]) -> SplitNote | None:
    """The note of a split that is whole, or None where it is to be made or gone on with. Nothing is changed.

    Raises UsageError where it was made, or begun, with other settings, or by someone else.
    """
    note = SplitNote.read(split.note)
    before = note.settings if note else _begun_with(split)
    if before is None:
        if split.output.exists():
            raise UsageError(f"{split.output} is there already, and no note tells what it was made of", hint=_REMAKE)
        return None
    changed = [_NAMES.get(name, name) for name in settings if before.get(name) != settings[name]]
    if changed:
        raise UsageError(f"{split.output} was made with something else: {', '.join(changed)} changed", hint=_REMAKE)
    return note if note and _is_whole(split, note) else None


def check_others(split: Split) -> None:
    """Raise UsageError where there are splits that a run with as many splits as `split` would not replace."""
    others = [each for each in existing(split.folder, split.name) if each.index >= split.num_splits]
    if others:
        what = f"{others[0].output} is left from a run with more than {split.num_splits:,} splits"
        raise UsageError(what, hint="Remove it, or choose another --name or -o; --overwrite with --splits removes all.")


def existing(folder: Path, name: str) -> Iterator[Split]:
    """The splits of which there is anything."""
    found = set()
    for place in (folder, folder / "meta"):
        for path in place.glob("*"):
            match = re.fullmatch(rf"{re.escape(name)}_split(\d{{1,9}}){_SUFFIXES}", path.name)
            if match and int(match[1]):
                found.add(int(match[1]) - 1)
    for index in sorted(found):
        yield Split(folder=folder, name=name, index=index, num_splits=0)


def remove(split: Split) -> None:
    """Remove what there is of a split, the note first. Raises JournalWriteError."""
    files = [split.output, split.rejects]
    for path in (split.note, split.checkpoint, *files, *map(partial_of, files)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error


def _begun_with(split: Split) -> dict[str, Any] | None:
    """The settings of a split that was not finished."""
    try:
        settings = orjson.loads(split.checkpoint.read_bytes())["settings"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return settings if isinstance(settings, dict) else None


def _is_whole(split: Split, note: SplitNote) -> bool:
    try:
        return split.output.stat().st_size == note.output_bytes
    except OSError:
        return False
