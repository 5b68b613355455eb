"""One text file per caption, as training tools read them: in a tree that mirrors the pictures', or beside them.

It decides which captions get a file and what it is called; how names are kept safe and apart `paths` knows. A file
holds the caption and nothing else, without a newline at its end: tools differ in whether they strip one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import orjson

from omnicap_cli import __version__
from omnicap_cli.core.runs.journal_reading import JournalEntry, NewestRecords, Record, text_of
from omnicap_cli.exports.export_job import NO_PICTURE, ExportJob
from omnicap_cli.exports.paths import FileNames, PicturePlace, SmallFiles, UniqueNames, fitted_name
from omnicap_cli.media.names import is_url, possible_paths

SUFFIX: Final = ".txt"
NOTE: Final = "omnicap.json"
_NOT_IN_WORD: Final = re.compile(r"[^\w-]")


def write_text_files(job: ExportJob) -> None:
    """Into the folder of `job`, with a note that marks it as made by a machine; without a folder beside the pictures.

    Of several records with one picture and prompt the newest counts. Memory: about 72 bytes for each.
    """
    job.outcome.unit = "text files"
    writer = _TextFileWriter(job)
    job.reader.scan(writer.observe)
    for entry in job.entries():
        writer.take(entry)
    if job.config.target is not None:
        _write_note(job, job.config.target, writer.models)


class _TextFileWriter:
    """First sees every record with `observe`, so that names don't depend on their order, then takes each."""

    def __init__(self, job: ExportJob) -> None:
        self.models: dict[str, None] = {}
        self._outcome, self._files = job.outcome, SmallFiles(overwrite=job.config.overwrite)
        self._target = job.config.target
        self._folders = job.pictures.folders
        self._names, self._newest = UniqueNames(), NewestRecords()
        self._asked: set[tuple[str, str, str]] = set()

    def observe(self, entry: JournalEntry) -> None:
        """Claim a name for the picture of a record."""
        name = self._name_of(entry.record)
        self._asked.add(_prompt_of(entry.record))
        if isinstance(name, FileNames):
            self._names.claim(name)
            self._newest.observe(entry, name.picture, *_prompt_of(entry.record))

    def take(self, entry: JournalEntry) -> None:
        """Write the file of a record, or count why there is none."""
        record = entry.record
        name, caption = self._name_of(record), record.get("caption")
        if record.get("status") != "ok" or not isinstance(caption, str):
            self._outcome.left_out["errors"] += 1
        elif isinstance(name, str):
            self._outcome.left_out[name] += 1
        elif not self._newest.has(entry.offset, name.picture, *_prompt_of(record)):
            self._outcome.left_out["older than another of the same picture"] += 1
        else:
            self.models[text_of(record, "model")] = None
            path = self._path_of(name, record)
            self._outcome.count_file(path, self._files.put(path, caption.encode()))

    def _name_of(self, record: Record) -> FileNames | str:
        """How the picture is called, or why it can't have a file."""
        place = PicturePlace.of(record)
        if not place.file:
            return "no path"
        if self._target is not None:
            return FileNames.mirrored(place)
        if is_url(place.file) or place.member is not None:
            return "no file of its own: name a folder with -o"
        path = next(filter(os.path.isfile, possible_paths(place.file, self._folders)), None)
        return NO_PICTURE if path is None else FileNames.beside(path, place)

    def _path_of(self, name: FileNames, record: Record) -> str:
        suffix = "".join(f".{_NOT_IN_WORD.sub('_', word)}" for word in self._words(record)) + SUFFIX
        return os.path.join(self._target or "", name.folder, fitted_name(self._names.of(name), suffix))

    def _words(self, record: Record) -> list[str]:
        """What a name has to say of the prompt, because the journal has others too."""
        if len(self._asked) == 1:
            return []
        types, _styles, langs = (len(set(column)) for column in zip(*self._asked, strict=True))
        type, style, lang = _prompt_of(record)
        return [*([type] if types > 1 else []), style, *([lang] if langs > 1 else [])]


def _prompt_of(record: Record) -> tuple[str, str, str]:
    return text_of(record, "type"), text_of(record, "style"), text_of(record, "lang")


def _write_note(job: ExportJob, folder: Path, models: dict[str, None]) -> None:
    outcome = job.outcome
    note = {
        "generated": True,
        "omnicap": __version__,
        "journal": job.reader.path.name,
        "models": list(models),
        "num_files": outcome.num_written + outcome.num_same,
        "num_conflicts": outcome.num_conflicts,
        "num_left_out": dict(outcome.left_out),
    }
    with job.open_output_file(folder / NOTE) as file:
        file.write(orjson.dumps(note, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
