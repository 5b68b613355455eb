"""A journal as records for fine-tuning: the question that was asked, the caption as its answer, the picture's file.

It knows that form and the names of the published task types. It counts no tokens, and fetches no picture itself.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

import orjson  # at 50,000 records a second, most of the time is JSON

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.journal_reading import JournalEntry, NewestRecords, Record, text_of
from omnicap_cli.exports.export_job import NO_PICTURE, ExportJob
from omnicap_cli.exports.paths import FileNames, PicturePlace, SmallFiles, fitted_name, with_digest

_ARRAY_SUFFIX: Final = ".json"
_MARK: Final = re.compile(r"<(image|video|audio)>")
_CUT: Final = {"length": "cut by a limit", "repetition": "cut in a loop"}
_ANY: Final = "*"
_TASK_TYPES: Final = {
    **{f"aigc/{style}/en": style for style in ("detailed", "medium", "short", "tag")},
    **{f"aigc/{style}/zh": f"{style}_CN" for style in ("detailed", "medium", "short", "tag")},
    **{f"natural/{style}/en": f"{style}_natural" for style in ("detailed", "medium", "short")},
    **{f"natural/{style}/zh": f"{style}_natural_CN" for style in ("detailed", "medium", "short")},
    "ocr/text/en": "OCR",
    "ocr/poster/en": "OCR",
    "ocr/markdown/en": "OCR",
    "ocr/caption/en": "poster",
    "ocr/caption/zh": "poster_CN",
    "gui/caption/en": "UI",
    "gui/caption/zh": "UI_CN",
    "chart/*/en": "chart",
    "table/*/en": "table",
    "equation/*/en": "math_equation",
    "mathgeo/*/en": "math_geometry",
    **{f"{type}/*/zh": "structured_CN" for type in ("chart", "table", "equation", "mathgeo")},
    "chem/smiles/en": "chemdata",
    "video/*/en": "video",
}


def write_conversations(job: ExportJob) -> None:
    """JSON lines, or one JSON array where the target ends in `.json`.

    Of several records with one id and prompt the newest counts. Pictures that are no files of their own (pages, members
    of archives, rows) are written to `TARGET.images`.
    """
    asked = _AskedPrompts()
    job.reader.scan(asked.observe)
    writer = _ConversationWriter(job, asked)
    target = job.config.target
    start, between, end = (
        (b"[\n", b",\n", b"\n]\n") if target and target.suffix.lower() == _ARRAY_SUFFIX else (b"", b"\n", b"\n")
    )
    with job.open_output() as file:
        file.write(start)
        # the styles of one page together, so that its picture is made once
        for entry in job.entries(grouped=asked.has_several):
            conversation = writer.conversation_of(entry)
            if conversation is not None:
                file.write((between if job.outcome.num_written else b"") + orjson.dumps(conversation))
                job.outcome.num_written += 1
        if start or job.outcome.num_written:
            file.write(end)
    if writer.num_reworded:
        job.outcome.warnings.append(
            f"the wording of the prompt has changed since {writer.num_reworded:,} of them were captioned: "
            "the question is today's"
        )


def task_type(type: str, style: str, lang: str) -> str | None:
    """The published task type under which such a caption is trained, if there is one."""
    return _TASK_TYPES.get(f"{type}/{style}/{lang}") or _TASK_TYPES.get(f"{type}/{_ANY}/{lang}")


class _AskedPrompts:
    """What a journal was asked, seen in a first pass: how an id can name one record, and which of several counts.

    Memory: 72 bytes for each record, also where every question is another one.
    """

    def __init__(self) -> None:
        self._by_id, self._by_name, self._by_prompt = NewestRecords(), NewestRecords(), NewestRecords()

    @property
    def has_several(self) -> bool:
        """Whether an id was asked more than one thing."""
        return len(self._by_id) < len(self._by_prompt)

    def observe(self, entry: JournalEntry) -> None:
        """Take in a record."""
        id, name, sha = _subject(entry.record)
        self._by_id.observe(entry, id)
        self._by_name.observe(entry, id, name)
        self._by_prompt.observe(entry, id, name, sha)

    def is_newest(self, entry: JournalEntry) -> bool:
        """Whether no later record answers the same for the same id."""
        return self._by_prompt.has(entry.offset, *_subject(entry.record))

    def id_of(self, record: Record) -> str:
        """The record's id, with as much of its prompt as tells it from the other records of this journal."""
        id, name, sha = _subject(record)
        if not self.has_several:
            return id
        return f"{id}#{name}" if len(self._by_name) == len(self._by_prompt) else f"{id}#{name}#{sha}"


class _ConversationWriter:
    """Makes the conversation of each record, or counts why there is none."""

    def __init__(self, job: ExportJob, asked: _AskedPrompts) -> None:
        self.num_reworded = 0
        self._asked, self._left_out = asked, job.outcome.left_out
        self._prompts = {each.name: each for each in Catalogue.load().prompts}
        self._pictures = _PictureFiles(job)

    def conversation_of(self, entry: JournalEntry) -> dict[str, Any] | None:
        """The conversation of a record, if it can be trained on."""
        record = entry.record
        reason = self._reason_unfit(entry)
        prompt = self._prompts.get(_prompt_name(record))
        users_own = text_of(record, "prompt")  # which the record holds; else the question is the catalogue's
        question = None if reason else users_own or (prompt.user if prompt else None)
        image = None if reason else self._pictures.path_of(record)
        if question is None or image is None:
            self._left_out[reason or ("prompt not known" if question is None else self._pictures.why_none)] += 1
            return None
        self.num_reworded += not users_own and prompt is not None and prompt.sha != text_of(record, "prompt_sha")
        task = task_type(*(text_of(record, name) for name in ("type", "style", "lang")))
        return {
            "id": self._asked.id_of(record),
            "image": image,
            "conversations": [
                {"from": "human", "value": f"<image>\n{without_marks(question)}"},
                {"from": "gpt", "value": without_marks(record["caption"])},
            ],
        } | ({"task_type": task} if task else {})

    def _reason_unfit(self, entry: JournalEntry) -> str | None:
        record = entry.record
        caption = record.get("caption")
        if record.get("status") != "ok" or not isinstance(caption, str):
            return "errors"
        if not self._asked.is_newest(entry):
            return "older than another of the same id"
        if not caption.strip():
            return "empty"
        return _CUT.get(text_of(record, "finish_reason"))


class _PictureFiles:
    """Finds the file of a record's picture, and writes one where there is none."""

    def __init__(self, job: ExportJob) -> None:
        target = job.config.target
        # relative paths count from where the run was, and so can this one only if that is here
        is_here = target is not None and Path(job.pictures.folders[0]).resolve() == Path().resolve()
        self._folder = f"{target if is_here else target.absolute()}.images" if target else None
        self.why_none = NO_PICTURE if target else "no place for its picture"
        self._picture_of = job.picture_of
        self._files = SmallFiles(overwrite=True)
        self._latest: tuple[PicturePlace | None, str | None] = (None, None)

    def path_of(self, record: Record) -> str | None:
        """The path, or None where the picture can't be had."""
        place = PicturePlace.of(record)
        if place.is_whole_file:
            return place.file or None
        if self._latest[0] != place:
            self._latest = (place, self._write_picture(place, record))
        return self._latest[1]

    def _write_picture(self, place: PicturePlace, record: Record) -> str | None:
        picture = self._picture_of(record) if self._folder else None
        if picture is None or self._folder is None:
            return None
        name = FileNames.mirrored(place)
        last = fitted_name(with_digest(name.stem, name.picture), picture.suffix)
        path = os.path.join(self._folder, name.folder, last)
        return path if self._files.put(path, picture.content) in ("written", "same") else None


def without_marks(text: str) -> str:
    """`text` with `<image>` and the like as `< image >`, so that no trainer takes it for the place of a picture."""
    return _MARK.sub(r"< \1 >", text)


def _prompt_name(record: Record) -> str:
    return "/".join(text_of(record, name) for name in ("type", "style", "lang"))


def _subject(record: Record) -> tuple[str, str, str]:
    """The id, and the name and the wording of what was asked."""
    return text_of(record, "id"), _prompt_name(record), text_of(record, "prompt_sha")
