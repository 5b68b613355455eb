"""What an earlier run left of the splits of a data set: whether it can be taken as it is, or is in the way.

It reads the notes of splits, and no record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from omnicap_cli.core.files.atomic import write_errors
from omnicap_cli.datasets.splits import Split, SplitNote, partial_of
from omnicap_cli.datasets.tokenizing.split_writer import Checkpoint
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitState:
    """What there is of a split: all of it (done), a part or nothing (begun), or something else in its place (foreign).

    `reason` says why it is foreign, or why one that was done is only begun; `changed` are the settings that it was made
    with and that are others now. `note` is that of one that is done, `is_slow` tells that what is there of one that is
    begun was counted by the model's tokenizer itself.
    """

    stage: Literal["done", "begun", "foreign"]
    reason: str = ""
    changed: Sequence[str] = ()
    note: SplitNote | None = None
    is_slow: bool = False


def split_state(split: Split, settings: Mapping[str, Any]) -> SplitState:
    """Whether a split is done, begun or foreign to a run with these settings. Nothing is changed.

    Raises JournalError where its note can't be read.
    """
    note, checkpoint = SplitNote.read(split.note), Checkpoint.read(split.checkpoint)
    before = note or checkpoint
    if before is None:
        if split.output.exists():
            reason = f"{split.output} is there already, and no note tells what it was made of"
            return SplitState(stage="foreign", reason=reason)
        return SplitState(stage="begun")
    changed = [_NAMES.get(name, name) for name in settings if before.settings.get(name) != settings[name]]
    if changed:
        reason = f"{split.output} was made with something else: {', '.join(changed)} changed"
        return SplitState(stage="foreign", reason=reason, changed=changed)
    if note and _is_whole(split, note):
        return SplitState(stage="done", note=note)
    reason = f"{split.output} is not as it was left" if note else ""
    return SplitState(stage="begun", reason=reason, is_slow=checkpoint is not None and not checkpoint.is_fast)


def own_split_state(split: Split, settings: Mapping[str, Any]) -> SplitState:
    """The state of a split that is done or begun. Raises UsageError where it is foreign, JournalError as above."""
    state = split_state(split, settings)
    if state.stage == "foreign":
        raise UsageError(state.reason, hint=_REMAKE)
    return state


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
    others = [each for each in splits_in(first.folder, first.name) if each.index not in indices]
    for other in (each for each in others if each.index >= first.num_splits):
        what = f"{other.output} is left from a run with more than {first.num_splits:,} splits"
        raise UsageError(what, hint=_REMOVE)
    for state in (split_state(other, settings) for other in others[:1]):
        if state.changed:
            raise UsageError(state.reason, hint=_REMOVE)


def splits_in(folder: Path, name: str) -> Iterator[Split]:
    """The splits of which there is anything."""
    found = set()
    for place in (folder, folder / "meta"):
        for path in place.glob("*"):
            match = re.fullmatch(rf"{re.escape(name)}_split(\d{{1,9}}){_SUFFIXES}", path.name)
            if match and int(match[1]):
                found.add(int(match[1]) - 1)
    for index in sorted(found):
        yield Split(folder=folder, name=name, index=index, num_splits=0)


def remove_split(split: Split) -> None:
    """Remove what there is of a split, the notes last: without them nobody knows whose the rest is.

    Raises JournalWriteError.
    """
    files = [split.output, split.rejects]
    for path in (*files, *map(partial_of, files), split.checkpoint, split.note):
        with write_errors(path):
            path.unlink(missing_ok=True)


def _is_whole(split: Split, note: SplitNote) -> bool:
    try:
        return split.output.stat().st_size == note.output_bytes and split.rejects.exists()
    except OSError:
        return False
