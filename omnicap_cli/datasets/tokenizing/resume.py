"""What an earlier run left of the splits of a data set: whether it can be taken as it is, or is in the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from omnicap_cli.core.files.atomic import write_error
from omnicap_cli.datasets.splits import Split, SplitNote, partial_of
from omnicap_cli.errors import OptionError, UsageError

_REMAKE: Final = "Pass --overwrite to make all of it again, or choose another --name or -o."
_REMOVE: Final = "Choose another --name or -o, or remove what is there; --overwrite with --splits N removes all."
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
    changed = _changed(before, settings)
    if changed:
        raise UsageError(f"{split.output} was made with something else: {', '.join(changed)} changed", hint=_REMAKE)
    return note if note and _is_whole(split, note) else None


def check_data(data: str, split: Split) -> None:
    """Raise OptionError where the data is among the files that splits of this name are written to."""
    path, folder = Path(data.partition("\0")[0]).resolve(), split.folder.resolve()
    if path.name.startswith(f"{split.name}_split") and path.parent in (folder, folder / "rejects", folder / "meta"):
        hint = "Choose another --name or -o."
        raise OptionError("DATA", data, f"is among the files that are written for --name {split.name}", hint=hint)


def check_others(splits: Sequence[Split], settings: dict[str, Any]) -> None:
    """Raise UsageError where there are others that don't go with `splits`: too many, or made with other settings.

    All that are there go with each other, so one of them tells.
    """
    first, indices = splits[0], {split.index for split in splits}
    others = [each for each in existing(first.folder, first.name) if each.index not in indices]
    for other in (each for each in others if each.index >= first.num_splits):
        what = f"{other.output} is left from a run with more than {first.num_splits:,} splits"
        raise UsageError(what, hint=_REMOVE)
    for other in others[:1]:
        note = SplitNote.read(other.note)
        changed = _changed(note.settings if note else _begun_with(other), settings)
        if changed:
            what = f"{other.output} was made with something else: {', '.join(changed)} changed"
            raise UsageError(what, hint=_REMOVE)


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


def _changed(before: dict[str, Any] | None, settings: dict[str, Any]) -> list[str]:
    """What is not as it was, where that is known."""
    names = settings if before is not None else ()
    return [_NAMES.get(name, name) for name in names if before and before.get(name) != settings[name]]


def remove(split: Split) -> None:
    """Remove what there is of a split, the notes last: without them nobody knows whose the rest is.

    Raises JournalWriteError.
    """
    files = [split.output, split.rejects]
    for path in (*files, *map(partial_of, files), split.checkpoint, split.note):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error


def was_begun_slowly(split: Split) -> bool:
    """Whether what is there of it was counted by the model's tokenizer itself."""
    return _checkpoint(split).get("is_fast") is False


def _begun_with(split: Split) -> dict[str, Any] | None:
    """The settings of a split that was not finished."""
    settings = _checkpoint(split).get("settings")
    return settings if isinstance(settings, dict) else None


def _checkpoint(split: Split) -> dict[str, Any]:
    try:
        checkpoint = orjson.loads(split.checkpoint.read_bytes())
    except (OSError, ValueError):
        return {}
    return checkpoint if isinstance(checkpoint, dict) else {}


def _is_whole(split: Split, note: SplitNote) -> bool:
    try:
        return split.output.stat().st_size == note.output_bytes and split.rejects.exists()
    except OSError:
        return False
