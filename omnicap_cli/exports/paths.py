"""Where in a folder the files of a picture go: safe names, no two the same, and writes that leave nothing half done.

It knows how records name pictures (paths, URLs, pages, members of archives), and nothing of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote

from omnicap_cli.core.files.atomic import PARTIAL_SUFFIX, remove_leftovers, write_error
from omnicap_cli.core.runs.journal_reading import Record, digest, text_of
from omnicap_cli.core.runs.key_index import KeyIndex

PutResult = Literal["written", "same", "conflict", "too long"]

MAX_NAME_BYTES: Final = 255
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_MEMBER: Final = "#member="
_PART: Final = re.compile(r"#(page|row|line)=([0-9]+)\Z")
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # what some file system doesn't take, or takes for a path
_DIGITS: Final = 16  # of a digest in a name
_PARTIAL_NAME: Final = "omnicap"  # what all files of a folder are called while they are written
_SEVERAL: Final = -1  # what a name's index holds if more than one picture would like it


class PicturePlace(NamedTuple):
    """Which picture a record is about: a path or URL, the member of an archive there, and `page-3` or `row-7` of it."""

    file: str
    member: str | None
    part: str

    @property
    def is_whole_file(self) -> bool:
        """Whether the picture is a file of its own, not something within one."""
        return self.member is None and not self.part

    @classmethod
    def of(cls, record: Record) -> PicturePlace:
        """The place that a record names."""
        shown, member, parts = text_of(record, "image") or text_of(record, "id"), None, []
        if match := _PART.search(shown):
            shown, parts = shown[: match.start()], [f"{match[1]}-{match[2]}"]
        if _MEMBER in shown:
            shown, _, encoded = shown.partition(_MEMBER)
            member = _percent_decoded(encoded)
        page = record.get("page")
        if type(page) is int and f"page-{page}" not in parts:
            parts.append(f"page-{page}")
        return cls(shown, member, ".".join(parts))


class FileNames(NamedTuple):
    """What files of a picture may be called, suffix and folder apart: `stem` if no other picture wants that."""

    folder: str
    stem: str
    full: str
    picture: str  # what it is, as opposed to every other one

    @classmethod
    def mirrored(cls, place: PicturePlace) -> FileNames:
        """The same tree, relative. Whatever stands in `place`, joined to a folder it stays in that folder."""
        path, query = place.file, ""
        if match := _SCHEME.match(path):
            path, _, query = path[match.end() :].partition("?")
        segments: list[str] = []
        for segment in [*path.split("/"), *(place.member or "").split("/")]:
            if segment == "..":
                segments[-1:] = []
            elif segment not in ("", "."):
                segments.append(segment)
        *folders, last = segments or ["_"]
        stem, full = os.path.splitext(last)[0], f"{last}?{query}".replace("/", "_") if query else last
        folder = "/".join(fitted_name(safe_name(segment)) for segment in folders)
        return cls(folder, *_with_part(safe_name(stem), safe_name(full), place), repr(place))

    @classmethod
    def beside(cls, path: str, place: PicturePlace) -> FileNames:
        """In the folder of the picture's file, which is at `path`."""
        folder, last = os.path.split(os.path.abspath(path))
        stem, full = _with_part(os.path.splitext(last)[0], last, place)
        return cls(folder, stem, full, os.path.join(folder, full))


class UniqueNames:
    """Names of which no two are the same, even where case and Unicode forms are ignored, in whatever order they come.

    `claim` all of them first. Memory: 48 bytes for each picture.
    """

    def __init__(self) -> None:
        self._stems, self._fulls = KeyIndex(), KeyIndex()

    def claim(self, name: FileNames) -> None:
        """A picture will need a name."""
        number = _picture_number(name)
        for index, wish in ((self._stems, name.stem), (self._fulls, name.full)):
            key = _folded_path(name, wish)
            index.set(key, number if index.get(key) in (None, number) else _SEVERAL)

    def of(self, name: FileNames) -> str:
        """The stem if it is the picture's alone, else the full name, else that with a digest."""
        number, stem = _picture_number(name), _folded_path(name, name.stem)
        if self._stems.get(stem) == number and self._fulls.get(stem) in (None, number):
            return name.stem
        if self._fulls.get(_folded_path(name, name.full)) == number:
            return name.full
        return with_digest(name.full, name.picture)


def safe_name(name: str) -> str:
    """One name of a path, without what a file system may not take or may take for something else."""
    return _UNSAFE.sub("_", name)


def fitted_name(name: str, suffix: str = "") -> str:
    """`name` with `suffix`, at most MAX_NAME_BYTES of UTF-8: a digest stands for what is cut off."""
    room = MAX_NAME_BYTES - len(suffix.encode())
    if len(name.encode("utf-8", "surrogateescape")) <= room:
        return name + suffix
    kept = name.encode("utf-8", "surrogateescape")[: room - _DIGITS - 1].decode("utf-8", "ignore")
    return with_digest(kept, name) + suffix


def with_digest(name: str, what: str) -> str:
    """`name`, and a digest of `what`."""
    return f"{name}.{digest(what).hex()[:_DIGITS]}"


class SmallFiles:
    """Writes small files, each whole or not at all, where there are none; with `overwrite` over others too.

    They aren't synced to the disk one by one: with a million that takes hours, and what a power cut takes another
    export brings back.
    """

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._folders: set[str] = set()  # that were written to

    def put(self, path: str, content: bytes) -> PutResult:
        """Write one, unless it is there. Raises JournalWriteError where the disk doesn't take it."""
        try:
            return self._put_if_new(path, content)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return "too long"
            if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
                return "conflict"
            raise write_error(Path(path), error) from error

    def _put_if_new(self, path: str, content: bytes) -> PutResult:
        with contextlib.suppress(FileNotFoundError):
            state = os.stat(path)
            if not stat.S_ISREG(state.st_mode):
                return "conflict"
            if state.st_size == len(content) and Path(path).read_bytes() == content:
                return "same"
            if not self._overwrite:
                return "conflict"
        self._write_whole(path, content)
        return "written"

    def _write_whole(self, path: str, content: bytes) -> None:
        folder = os.path.dirname(path)
        if folder not in self._folders:
            os.makedirs(folder or ".", exist_ok=True)
            remove_leftovers(Path(folder) / _PARTIAL_NAME)
            self._folders.add(folder)
        partial = Path(folder) / f".{_PARTIAL_NAME}.{os.getpid()}{PARTIAL_SUFFIX}"
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def _percent_decoded(name: str) -> str:
    """A percent-encoded name; one that isn't UTF-8 stays as it is."""
    try:
        return unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name


def _with_part(stem: str, full: str, place: PicturePlace) -> tuple[str, str]:
    return (f"{stem}.{place.part}", f"{full}.{place.part}") if place.part else (stem, full)


def _picture_number(name: FileNames) -> int:
    return int.from_bytes(digest(name.picture)[:7], "big")


def _folded_path(name: FileNames, wish: str) -> bytes:
    """The same for names that some file system takes for one."""
    path = f"{name.folder}/{wish}"
    return digest(path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold())
