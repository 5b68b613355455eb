"""A journal as WebDataset: tar archives of samples, each a picture with its record as JSON and its caption as text.

The pictures are the bytes of their files, not encoded again; a page of a document is a PNG.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson  # each sample has its record

from omnicap_cli.core.files.atomic import PARTIAL_SUFFIX, remove_leftovers, sync_folder, write_errors
from omnicap_cli.core.runs.journal_reading import Record, text_of
from omnicap_cli.errors import OptionError
from omnicap_cli.exports.export_config import REPLACE_HINT
from omnicap_cli.exports.export_job import NO_PICTURE, ExportJob
from omnicap_cli.exports.tables import json_text

_PARTIAL: Final = re.compile(r"\.(.+)\.\d+" + re.escape(PARTIAL_SUFFIX))
_NUMBER: Final = re.compile(r"%0?(\d{0,2})d")
_UNSAFE: Final = re.compile(r"[^\w-]")  # a dot would begin another suffix
_DIGITS: Final = 6
_KEY_DIGITS: Final = 9


def write_webdataset(job: ExportJob) -> None:
    """See `ExportJob`: one archive at the target, or numbered ones beside it where one would be too large."""
    target = job.config.target
    assert target is not None, "ExportConfig asks for a file"
    job.outcome.unit = "samples"
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shards = _ShardFiles(job, target)
        with shards.replacing_earlier():
            for sample in _picture_samples(job):
                shards.add(f"{job.outcome.num_written:0{_KEY_DIGITS}}", sample)
                job.outcome.num_written += 1
    if shards.num_removed:
        job.outcome.warnings.append(f"removed {shards.num_removed} archives of an earlier export")


def _picture_samples(job: ExportJob) -> Iterator[dict[str, bytes]]:
    """The files of each picture with a caption, by their suffixes; pictures that are gone are counted."""
    for records in job.captions_by_picture():
        picture = job.picture_of(records[0])
        if picture is None:
            job.outcome.left_out[NO_PICTURE] += len(records)
        else:
            yield {picture.suffix: picture.content, **_caption_files(records)}


def _caption_files(records: list[Record]) -> dict[str, bytes]:
    """The JSON and text of a picture's first caption; the others stand in `captions`, and have texts of their own."""
    first, *others = records
    files = {".json": json_text({**first, "captions": records} if others else first).encode()}
    files[".txt"] = text_of(first, "caption").encode()
    words = [name for name in ("type", "lang") if len({text_of(each, name) for each in records}) > 1]
    for record in others:
        names = [text_of(record, name) for name in ("type", "style", "lang") if name == "style" or name in words]
        stem = "".join("." + _UNSAFE.sub("_", name) for name in names)
        suffixes = itertools.chain([f"{stem}.txt"], (f"{stem}.{number}.txt" for number in itertools.count(2)))
        files[next(suffix for suffix in suffixes if suffix not in files)] = text_of(record, "caption").encode()
    return files


def _is_own_archive(path: Path) -> bool:
    """Whether an archive begins with a sample as they are written here."""
    with contextlib.suppress(tarfile.TarError, OSError, ValueError, EOFError), tarfile.open(path, "r:") as archive:
        for info in itertools.islice(archive, 2):
            file = archive.extractfile(info) if info.name.endswith(".json") and info.isreg() else None
            record = orjson.loads(file.read()) if file else None
            if isinstance(record, dict):
                return "key" in record and "caption" in record and info.name.split(".")[0].isdecimal()
    return False


class _ShardFiles:
    """Archives that get their names when all of them are whole. What is there makes way only if it may."""

    def __init__(self, job: ExportJob, target: Path) -> None:
        self.num_removed = 0
        self._target, self._shard_bytes = target, job.config.shard_bytes
        self._overwrite, self._pictures = job.config.overwrite, job.pictures
        self._partials: list[Path] = []
        self._archive: tarfile.TarFile | None = None

    @contextlib.contextmanager
    def replacing_earlier(self) -> Iterator[None]:
        """The block adds samples; if it ends well, the archives get their names, else nothing is left of them."""
        self._check_free(self._numbered(0))
        for name in os.listdir(self._target.parent):
            match = _PARTIAL.fullmatch(name)
            if match and self._is_numbered(match[1]):  # left by an export that was killed
                remove_leftovers(self._target.with_name(match[1]))
        try:
            yield
            if self._archive is None:  # nothing to write is an archive of nothing
                self._begin_archive()
            self._finish_archive()
            self._give_names()
        finally:
            for partial in self._partials:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
            if self._archive is not None:
                self._archive.close()

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """One sample, whole in one archive."""
        if self._archive is None or self._archive.offset >= self._shard_bytes:
            self._finish_archive()
            self._begin_archive()
        assert self._archive is not None
        for suffix, content in files.items():
            info = tarfile.TarInfo(key + suffix)
            info.size = len(content)
            self._archive.addfile(info, io.BytesIO(content))
        self._archive.members = []  # type: ignore[attr-defined]  # it would grow with every member

    def _begin_archive(self) -> None:
        name = self._numbered(len(self._partials)).name
        remove_leftovers(self._target.with_name(name))
        self._partials.append(self._target.with_name(f".{name}.{os.getpid()}{PARTIAL_SUFFIX}"))
        self._archive = tarfile.open(self._partials[-1], "w", encoding="utf-8")  # noqa: SIM115  `_finish_archive` closes it

    def _finish_archive(self) -> None:
        if self._archive is not None:
            archive, self._archive = self._archive, None
            archive.close()
            with self._partials[-1].open("rb") as file:
                os.fsync(file.fileno())

    def _give_names(self) -> None:
        alone = len(self._partials) == 1 and not _NUMBER.search(self._target.name)
        finals = [self._target] if alone else [self._numbered(number) for number in range(len(self._partials))]
        for final in finals:
            self._check_free(final)
        for partial, final in zip(self._partials, finals, strict=True):
            partial.replace(final)
        if self._overwrite:
            self._remove_stale(0 if alone else len(finals), alone=alone)
        sync_folder(self._target.parent)

    def _check_free(self, final: Path) -> None:
        """Raise OptionError where an archive may not be replaced: without --overwrite, or as the home of pictures."""
        if final.exists() and not self._overwrite:
            raise OptionError("--output", str(final), "is there already", hint=REPLACE_HINT)
        if final.resolve() in self._pictures.containers:
            raise OptionError("--output", str(final), "is where the pictures come from", hint="Choose another name.")

    def _remove_stale(self, number: int, *, alone: bool) -> None:
        """What an earlier export left that had more archives, or only one: no archive that is anybody else's."""
        stale = [] if alone else [self._target]
        stale += itertools.takewhile(Path.exists, map(self._numbered, itertools.count(number)))
        for path in stale:
            if path.exists() and _is_own_archive(path) and path.resolve() not in self._pictures.containers:
                path.unlink()
                self.num_removed += 1

    def _is_numbered(self, name: str) -> bool:
        number = re.search(r"\d+(?=\D*$)", name)
        return number is not None and self._numbered(int(number[0])).name == name

    def _numbered(self, number: int) -> Path:
        """`out.tar` as out-000007.tar; a name with %06d says itself where the number goes."""
        name = self._target.name
        if match := _NUMBER.search(name):
            return self._target.with_name(f"{name[: match.start()]}{number:0{match[1] or 1}}{name[match.end() :]}")
        return self._target.with_name(f"{self._target.stem}-{number:0{_DIGITS}}{self._target.suffix}")
