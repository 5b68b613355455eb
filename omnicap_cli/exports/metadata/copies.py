"""Copies of the pictures of a journal with their captions inside, as XMP: in a tree that mirrors the pictures'.

It decides which pictures are copied and where to; what a packet says, and how it gets into a file, `xmp` knows.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from omnicap_cli.core.runs.journal_reading import Record, digest
from omnicap_cli.core.runs.key_index import KeyIndex
from omnicap_cli.errors import ItemError
from omnicap_cli.exports.export_job import NO_PICTURE, ExportJob
from omnicap_cli.exports.metadata.xmp import embed_captions, sidecar_packet
from omnicap_cli.exports.paths import FileNames, PicturePlace, SmallFiles, UniqueNames, fitted_name
from omnicap_cli.media.names import IMAGE_SUFFIXES

SIDECAR_SUFFIX: Final = ".xmp"


def write_copies(job: ExportJob) -> None:
    """See `ExportJob`. What can't take a caption is copied as it is, with the caption in a file NAME.xmp beside it."""
    assert job.config.target is not None, "write_copies has a folder: ExportConfig asks for one"
    job.outcome.unit = "pictures"
    names = UniqueNames()
    job.reader.scan(lambda entry: names.claim(_copy_names(entry.record)))
    written, files = KeyIndex(), SmallFiles(overwrite=job.config.overwrite)
    for records in job.captions_by_picture():
        if records[0].get("page") is not None:
            job.outcome.left_out["pages of documents"] += len(records)
            continue
        picture = job.picture_of(records[0])
        if picture is None:
            job.outcome.left_out[NO_PICTURE] += 1
            continue
        name = _copy_names(records[0])
        chosen = names.of(name)
        suffix = "" if os.path.splitext(chosen)[1].lower() in IMAGE_SUFFIXES else picture.suffix
        path = os.path.join(job.config.target, name.folder, fitted_name(chosen, suffix))
        if written.get(digest(path)) is not None:
            job.outcome.left_out["a copy of the picture has another caption"] += 1
            continue
        written.set(digest(path), 1)
        content = embed_captions(picture.content, records)
        if _is_original(job, records[0], path):
            job.outcome.left_out["the copy would take the place of the picture"] += 1
        elif content is not None:
            job.outcome.count_file(path, files.put(path, content))
        elif job.outcome.count_file(path, files.put(path, picture.content)):
            beside = path + SIDECAR_SUFFIX
            job.outcome.count_file(beside, files.put(beside, sidecar_packet(records)), is_extra=True)


def _copy_names(record: Record) -> FileNames:
    """A copy is called as its picture is, suffix and all; if two would be, they are told apart by a digest."""
    name = FileNames.mirrored(PicturePlace.of(record))
    return name._replace(stem=name.full)


def _is_original(job: ExportJob, record: Record, path: str) -> bool:
    with contextlib.suppress(OSError, ItemError):
        original = job.pictures.path_of(record)
        return original is not None and os.path.samefile(original, path)
    return False
