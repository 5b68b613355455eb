"""What a user names, as a stream of units: one file, archive or URL each, before anyone has looked into it.

Nothing is held but the folder at hand: a million files cost no more memory than a thousand.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from omnicap_cli.core.files.words import printable, shortened
from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import ItemError, LinkLoopError, ManifestError
from omnicap_cli.media import manifests
from omnicap_cli.media.local_files import file_status, open_file, unreadable_error
from omnicap_cli.media.names import (
    ARCHIVE_SUFFIXES,
    UrlChain,
    is_archive,
    is_elsewhere,
    is_http,
    is_media_name,
    is_url,
    shown_path,
    split_chain,
    without_query,
)
from omnicap_cli.media.remote import urls
from omnicap_cli.media.row_paths import folder_of, path_and_content, path_in_row, resolve_against_url
from omnicap_cli.media.stdin_lines import split_stream

_EXCERPT_BYTES: Final = 200
_EXCERPT_CHARACTERS: Final = 80
_MANIFEST_SUFFIXES: Final = [f"{suffix}{end}" for suffix in manifests.MANIFEST_READERS for end in ("", ".gz")]
_CONTAINERS: Final = (*ARCHIVE_SUFFIXES, *_MANIFEST_SUFFIXES)
_NO_COLUMNS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One file, archive or URL: the smallest thing that a shard takes.

    `own_id` and `meta` come from a manifest; `content` and `shown`, its name, where that holds the picture itself.
    `error` says why there is nothing to look into.
    """

    path: str
    own_id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    shown: str | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What is walked, and how; see `Sources` for the fields."""

    inputs: tuple[str, ...]
    stdin: BinaryIO | None = None
    null: bool = False
    image_key: str = "image"
    image_root: str | None = None
    transfer: Transfer = field(default_factory=Transfer)
    warn: Callable[[str], None] = field(default=lambda _message: None)

    def units(self) -> Iterator[Unit]:
        """The units of `inputs` in the order given."""
        for given in self.inputs:
            if given == "-":
                yield from self._stdin_units()
            elif glob.has_magic(given) and not is_http(given) and not os.path.lexists(given):
                yield from self._glob_units(given)
            else:
                yield from self._named_units(given)

    def _glob_units(self, pattern: str) -> Iterator[Unit]:
        found = False
        try:
            for path in _remote_glob(pattern) if is_url(pattern) else sorted(glob.iglob(pattern, recursive=True)):
                found = True
                yield from self._named_units(path)
            if not found:
                self.warn(f"nothing matches {printable(pattern)}")
        except ItemError as error:
            yield Unit(path=pattern, error=error)

    def _stdin_units(self) -> Iterator[Unit]:
        assert self.stdin is not None, "who passes '-' passes stdin"
        for raw in split_stream(self.stdin, b"\0" if self.null else b"\n"):
            line = os.fsdecode(raw)
            if line.lstrip(" \t").startswith("{") and not os.path.lexists(line):
                row = manifests.parse_json_object(raw)
                yield from self._row_units(_excerpt(raw), row, folder="")
            elif line.endswith("\r") and not os.path.lexists(line):
                if line != "\r":
                    yield from self._named_units(line[:-1])
            else:
                yield from self._named_units(line)

    def _named_units(self, path: str) -> Iterator[Unit]:
        """The units of a path or URL that isn't a pattern: a manifest's rows, a folder's files, or itself."""
        if manifests.manifest_format(without_query(path)) and (is_url(path) or not os.path.isdir(path)):
            yield from self._manifest_units(path)
        else:
            yield from self._path_units(path)

    # ---------------------------------------------------------------------------------------- manifests

    def _manifest_units(self, path: str) -> Iterator[Unit]:
        shown = shown_path(path)
        try:
            with self._open_manifest(path) as file:
                for place, row in manifests.read_rows(file, without_query(path), self.image_key):
                    yield from self._row_units(f"{shown}#{place}", row, folder=folder_of(path))
        except ItemError as error:
            yield Unit(path=path, error=error)

    def _open_manifest(self, path: str) -> Any:
        is_parquet = manifests.manifest_format(without_query(path)) == ".parquet"  # which is read from its end
        if not is_url(path):
            return open_file(path, may_be_pipe=not is_parquet)
        return urls.seekable_copy(path, self.transfer) if is_parquet else urls.open_stream(path, self.transfer)

    def _row_units(self, place: str, row: dict[str, Any] | ManifestError, *, folder: str) -> Iterator[Unit]:
        """The unit of one row: its picture, an optional `id`, and the rest as `meta`. `place` names a broken row."""
        own_id, meta = None, _NO_COLUMNS
        try:
            if isinstance(row, ManifestError):
                raise row
            if self.image_key not in row:
                raise ManifestError(f"there is no {self.image_key!r} in it; name the column with --image-key")
            picture, named = row.pop(self.image_key), row.pop("id", None)
            own_id = None if named in (None, "") else str(named)
            path, content = path_and_content(picture)
            if content is not None and isinstance(picture, Mapping) and picture.get("path"):
                row[f"{self.image_key}.path"] = picture["path"]
            meta = manifests.json_value({name: value for name, value in row.items() if not isinstance(value, bytes)})
            if content is not None:
                yield Unit(path=place, shown=place, own_id=own_id, meta=meta, content=content)
                return
            if not path or path.startswith("data:"):
                excerpt = shortened(str(picture), _EXCERPT_CHARACTERS)
                raise ManifestError(f"{self.image_key!r} names no picture: {excerpt!r}")
            if self.image_root is None and is_elsewhere(folder) and not is_elsewhere(resolve_against_url(folder, path)):
                raise ManifestError("a manifest from elsewhere can't name files of this machine, but with --image-root")
        except ManifestError as error:
            yield Unit(path=place, own_id=own_id, meta=meta, error=error)
            return
        found = path_in_row(path, folder=folder, image_root=self.image_root)
        yield from self._path_units(found, own_id=own_id, meta=meta)

    # ---------------------------------------------------------------------------------------- files and folders

    def _path_units(
        self, path: str, *, own_id: str | None = None, meta: Mapping[str, Any] = _NO_COLUMNS
    ) -> Iterator[Unit]:
        try:
            is_folder = _is_folder(path, self.transfer)
            if is_folder and own_id is not None:
                raise ManifestError("an id can't name all files of a folder")
        except ItemError as error:
            yield Unit(path=path, own_id=own_id, meta=meta, error=error)
            return
        if is_folder:
            yield from self._folder_units(path, meta)
        else:
            yield Unit(path=path, own_id=own_id, meta=meta)

    def _folder_units(self, folder: str, meta: Mapping[str, Any]) -> Iterator[Unit]:
        found = False
        for unit in self._tree(folder, (), meta):
            found = True
            yield unit
        if not found:
            self.warn(f"no pictures or PDFs in {printable(shown_path(folder))}{_containers_hint(folder)}")

    def _tree(self, folder: str, ancestors: tuple[tuple[int, int], ...], meta: Mapping[str, Any]) -> Iterator[Unit]:
        """Files of a tree in the order of their names, links followed, hidden names left out."""
        try:
            lineage = () if is_url(folder) else (*ancestors, _folder_identity(folder))
            if len(set(lineage)) < len(lineage):
                raise LinkLoopError("a link that leads back to a folder it is in")
            for path, is_folder in _list_folder(folder, is_media_name):
                if is_folder:
                    yield from self._tree(path, lineage, meta)
                else:
                    yield Unit(path=path, meta=meta)
        except ItemError as error:
            yield Unit(path=folder, meta=meta, error=error)


def _remote_glob(pattern: str) -> Iterator[str]:
    """Hidden names only where the pattern names them, as in a shell."""
    wants_hidden = _last_name(pattern).startswith(".")
    return (url for url in urls.glob(pattern) if wants_hidden or not _last_name(url).startswith("."))


def _last_name(url: str) -> str:
    return without_query(url).rstrip("/").rsplit("/", 1)[-1]


def _is_folder(path: str, transfer: Transfer) -> bool:
    """Raises an ItemError where that can't be told. What is behind a URL is asked only if its name doesn't tell."""
    if is_url(path):
        is_file = is_http(path) or is_media_name(without_query(path)) or is_archive(path)
        return not is_file and urls.describe(path, transfer).kind == "folder"
    return stat.S_ISDIR(file_status(path).st_mode)


def _excerpt(raw: bytes) -> str:
    """A line that names no item, short enough for an id; where it is cut, a digest keeps it apart from others."""
    if len(raw) <= _EXCERPT_BYTES:
        return os.fsdecode(raw)
    return f"{os.fsdecode(raw[:_EXCERPT_BYTES])}… ({hashlib.sha256(raw).hexdigest()[:16]})"


def _folder_identity(folder: str) -> tuple[int, int]:
    status = file_status(folder)
    return status.st_dev, status.st_ino


def _list_folder(folder: str, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """The paths or URLs of the folders in a folder and of the files whose names are wanted, none of them hidden.

    In the order of their names, each with whether it is a folder. Raises an ItemError.
    """
    if not is_url(folder):
        yield from _list_local_folder(folder, is_wanted)
        return
    for url, is_folder in urls.list_folder(folder):
        name = _last_name(url)
        if not name.startswith(".") and (is_folder or is_wanted(name)):
            yield url, is_folder


def _list_local_folder(folder: str, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """Holds names only: what the system tells of each entry would take three times the memory."""
    names, folders = [], set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _leads_to_folder(entry):
                    folders.add(entry.name)
                elif not is_wanted(entry.name):
                    continue
                names.append(entry.name)
    except OSError as error:
        raise unreadable_error(error) from error
    for name in sorted(names):
        yield os.path.join(folder, name), name in folders


def _containers_hint(folder: str) -> str:
    """How to name the manifests and archives of a folder, which are only looked into if they are named."""
    try:
        listing = _list_folder(folder, lambda name: name.lower().endswith(_CONTAINERS))
        name = without_query(next((path for path, is_folder in listing if not is_folder), ""))
    except ItemError:  # nobody says
        name = ""
    if not name:
        return ""
    suffix = name[-len(next(each for each in _CONTAINERS if name.lower().endswith(each))) :]
    before, link, after = split_chain(folder) if is_url(folder) else UrlChain("", folder, "")
    pattern = f"{before}{glob.escape(link)}{'' if link.endswith('/') else '/'}*{suffix}{after}"
    return f"; it holds {suffix} files: name them, as '{printable(shown_path(pattern))}'"


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: reading it as a file says so
        return False
