"""Whether splits are the whole of a data set, told by their names, sizes and notes. It reads no record."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from omnicap_cli.core.files.atomic import PARTIAL_SUFFIX
from omnicap_cli.core.files.words import listed, shortened
from omnicap_cli.datasets.merging.find_splits import NOTED_SUFFIX, SPLIT_NAME, SplitFile, group_of, names_in, split_of
from omnicap_cli.datasets.splits import SplitNote, partial_of
from omnicap_cli.errors import JournalError

_MAX_VALUE_CHARACTERS: Final = 60
_NOTE_SUFFIX: Final = re.compile(r"(\.checkpoint)?\.json$")


def find_problems(parts: Sequence[SplitFile]) -> list[str]:
    """What keeps these files from being whole data sets, in words."""
    groups: dict[object, _Group] = {}
    for part in parts:
        if part.number is not None:
            group = groups.setdefault(group_of(part), _Group(part.folder, part.name, part.suffix))
            group.parts.setdefault(part.number, part)
    return [*_given_twice(parts), *(problem for group in groups.values() for problem in group.problems())]


def find_unbegun(folders: Iterable[Path], parts: Sequence[SplitFile]) -> list[str]:
    """The data sets in `folders` of which there is something, but no split that is whole."""
    given = {(part.folder, part.name) for part in parts}
    problems = []
    for folder in folders:
        names = [name.removesuffix(PARTIAL_SUFFIX) for name in names_in(folder)]
        with contextlib.suppress(JournalError):  # there is no such folder
            names += [_NOTE_SUFFIX.sub(NOTED_SUFFIX, name) for name in names_in(folder / "meta")]
        begun = {match[1] for match in map(SPLIT_NAME.fullmatch, names) if match}
        absent = sorted(name for name in begun if (folder, name) not in given)
        problems += [f"not finished: no split of {name} in {folder} is whole" for name in absent]
    return problems


def unknowable(parts: Sequence[SplitFile]) -> list[str]:
    """A warning of files of which nobody knows whether they are whole."""
    plain = [str(part.path) for part in parts if part.note is None and part.note_error is None]
    return [f"no note is beside {listed(plain, max_shown=3)}: whether all is there, nobody knows"] if plain else []


@dataclass(frozen=True, slots=True)
class _Group:
    """Splits of one data set, by their numbers."""

    folder: Path
    name: str
    suffix: str
    parts: dict[int, SplitFile] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        """What is missing, what is not finished, and what doesn't belong together."""
        noted = [(part, part.note) for part in self.parts.values() if part.note]
        yield from self._gaps(max([*self.parts, *self._in_folder(), *(note.num_splits for _, note in noted)]))
        for part in self.parts.values():
            if part.note_error:
                yield part.note_error
            elif self._is_unfinished(part.number or 0) or (noted and part.note is None):
                yield f"{part.path} is not finished: there is no note of it"
            elif part.note and part.state.num_bytes != part.note.output_bytes:
                sizes = f"{part.state.num_bytes:,} bytes, and its note tells of {part.note.output_bytes:,}"
                yield f"{part.path} has {sizes}"
        yield from self._differences(noted)

    def _gaps(self, num_splits: int) -> Iterator[str]:
        absent = [number for number in range(1, num_splits + 1) if number not in self.parts]
        there = self._in_folder()
        unfinished = [number for number in absent if number not in there and self._is_unfinished(number)]
        left_out = [number for number in absent if number in there]
        missing = [number for number in absent if number not in there and number not in unfinished]
        for numbers, what in ((missing, "missing"), (unfinished, "not finished"), (left_out, "there, but not given")):
            if numbers:
                plural = "s" if len(numbers) > 1 else ""
                names = listed([str(number) for number in numbers])
                yield f"{what}: split{plural} {names} of {num_splits:,} of {self.name} in {self.folder}"

    def _in_folder(self) -> set[int]:
        """The numbers of all splits of that name."""
        matches = (SPLIT_NAME.fullmatch(entry) for entry in names_in(self.folder))
        return {int(match[2]) for match in matches if match and (match[1], match[3]) == (self.name, self.suffix)}

    def _is_unfinished(self, number: int) -> bool:
        split = split_of(self.folder, self.name, number)
        is_begun = split.checkpoint.exists() or partial_of(split.output).exists()
        return self.suffix == NOTED_SUFFIX and is_begun and not split.note.exists()

    def _differences(self, noted: list[tuple[SplitFile, SplitNote]]) -> Iterator[str]:
        """A sentence for each setting that is not the same for all."""
        settings = [(part, note.settings | {"splits": note.num_splits}) for part, note in noted]
        for name in dict.fromkeys(name for _, of_one in settings for name in of_one):
            numbers: dict[str, list[str]] = {}
            for part, of_one in settings:
                value = orjson.dumps(of_one.get(name), option=orjson.OPT_SORT_KEYS).decode()
                numbers.setdefault(value, []).append(str(part.number))
            if len(numbers) > 1:
                values = [
                    f"{shortened(value, _MAX_VALUE_CHARACTERS)} in {listed(of, max_shown=3)}"
                    for value, of in numbers.items()
                ]
                yield f"{self.name}: {name} is not the same for all splits: {listed(values, max_shown=3)}"


def _given_twice(parts: Sequence[SplitFile]) -> Iterator[str]:
    files: dict[tuple[int, ...], list[str]] = {}
    for part in parts:
        files.setdefault(part.state[:2], []).append(str(part.path))
    for paths in files.values():
        if len(paths) > 1:
            yield f"{paths[0]} is given {len(paths)} times"
