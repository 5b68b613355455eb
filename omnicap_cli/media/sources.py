"""What a user names on the command line, as a stream of items. It opens no picture; of a PDF it counts the pages.

Nothing is held but the folder at hand: a million files cost no more memory than a thousand.
"""

from __future__ import annotations

import codecs
import functools
import glob
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Final, Literal

import orjson

from omnicap_cli.core.keyindex import KEY_BYTES, KeyIndex
from omnicap_cli.core.records import Item, MediaRef
from omnicap_cli.errors import (
    AccessError,
    DuplicateIdError,
    EmptyFileError,
    ItemError,
    LinkLoopError,
    ManifestError,
    OmnicapError,
    UnsupportedError,
)
from omnicap_cli.media.access import unreadable
from omnicap_cli.media.names import plain_path, printable, shown_path

Fingerprint = Literal["stat", "content"]
Kind = Literal["image", "pdf"]
IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".icns", ".jp2", ".j2k", ".jpx", ".tga", ".pcx", ".sgi", ".qoi"),
        *(".avif", ".avifs", ".heic", ".heif", ".hif"),
    )
)
TIFF_SUFFIXES: Final = (".tif", ".tiff")
PDF_SUFFIX: Final = ".pdf"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BLOCK_BYTES: Final = 1 << 20
_EXCERPT_BYTES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Inputs in the order given; iterate over it to get the items, each id once.

    `inputs` are paths, folders, quoted globs, or `-` for paths (or JSON objects) one a line on `stdin`, split at NUL
    with `null`. `warn` is told of inputs that hold nothing.
    """

    inputs: tuple[str, ...]
    stdin: BinaryIO | None = None
    null: bool = False
    image_key: str = "image"
    fingerprint: Fingerprint = "stat"
    warn: Callable[[str], None] = field(default=lambda _message: None)

    def __iter__(self) -> Iterator[Item]:
        return unique_items(item for given in self.inputs for item in self._items_of(given))

    def _items_of(self, given: str) -> Iterator[Item]:
        if given == "-":
            yield from self._stdin_items()
        elif glob.has_magic(given) and not _URL.match(given) and not os.path.lexists(given):
            yield from self._glob_items(given)
        else:
            yield from self._path_items(given)

    def _glob_items(self, pattern: str) -> Iterator[Item]:
        found = False
        for path in sorted(glob.iglob(pattern, recursive=True)):
            found = True
            yield from self._path_items(path)
        if not found:
            self.warn(f"nothing matches {printable(pattern)}")

    def _stdin_items(self) -> Iterator[Item]:
        assert self.stdin is not None, "who passes '-' passes stdin"
        for raw in _split(self.stdin, b"\0" if self.null else b"\n"):
            line = os.fsdecode(raw)
            if line.lstrip(" \t").startswith("{") and not os.path.lexists(line):
                yield from self._manifest_items(raw)
            elif line.endswith("\r") and not os.path.lexists(line):
                if line != "\r":
                    yield from self._path_items(line[:-1])
            else:
                yield from self._path_items(line)

    def _manifest_items(self, raw: bytes) -> Iterator[Item]:
        """The item of one JSON object: its media column, an optional `id`, and the rest as `meta`."""
        try:
            row = dict(orjson.loads(raw))
            path = row.pop(self.image_key)
            if not isinstance(path, str):
                raise TypeError(f"{self.image_key} is not a string")
            orjson.dumps(row)  # columns can be read that are nested too deep to be written again
        except (orjson.JSONDecodeError, TypeError) as error:
            yield _broken(_excerpt(raw), ManifestError(f"not a path, and not JSON that names one: {error}"))
        except KeyError:
            hint = f"the line has no {self.image_key!r}; name the column with --image-key"
            yield _broken(_excerpt(raw), ManifestError(hint))
        else:
            own_id = row.pop("id", None)
            if own_id is not None and os.path.isdir(path):
                yield _broken(path, ManifestError("an id can't name all files of a folder"), own_id=str(own_id))
            else:
                yield from self._path_items(path, own_id=None if own_id is None else str(own_id), meta=row)

    def _path_items(
        self, path: str, *, own_id: str | None = None, meta: Mapping[str, Any] | None = None
    ) -> Iterator[Item]:
        try:
            if _URL.match(path):
                raise UnsupportedError("a URL: this version reads files, so download it first")
            state = os.stat(path)
        except ItemError as error:
            yield _broken(path, error, own_id=own_id, meta=meta)
            return
        except (OSError, ValueError) as error:
            yield _broken(path, unreadable(error), own_id=own_id, meta=meta)
            return
        if not stat.S_ISDIR(state.st_mode):
            yield from self._file_items(path, state, own_id=own_id, meta=meta or {})
            return
        found = False
        for item in self._folder_items(path, ancestors=(), meta=meta or {}):
            found = True
            yield item
        if not found:
            self.warn(f"no pictures or PDFs in {printable(shown_path(path))}")

    def _folder_items(
        self, folder: str, *, ancestors: tuple[tuple[int, int], ...], meta: Mapping[str, Any]
    ) -> Iterator[Item]:
        """Files of a tree in the order of their names, links followed, hidden names left out."""
        try:
            state = os.stat(folder)
            here = (state.st_dev, state.st_ino)
            if here in ancestors:
                raise LinkLoopError("a link that leads back to a folder it is in")
            names, folders = _list_folder(folder)
        except LinkLoopError as error:
            yield _broken(folder, error, meta=meta)
            return
        except OSError as error:
            yield _broken(folder, unreadable(error), meta=meta)
            return
        for name in names:
            path = os.path.join(folder, name)
            if name in folders:
                yield from self._folder_items(path, ancestors=(*ancestors, here), meta=meta)
            else:
                yield from self._path_items(path, meta=meta)

    def _file_items(
        self, path: str, state: os.stat_result, *, own_id: str | None, meta: Mapping[str, Any]
    ) -> Iterator[Item]:
        make = functools.partial(_item, path, own_id=own_id, meta=meta)
        try:
            if not stat.S_ISREG(state.st_mode):  # reading a FIFO would wait for ever
                raise AccessError("not a regular file")
            if state.st_size == 0:
                raise EmptyFileError("the file is empty")
            fingerprint = _stat_print(state) if self.fingerprint == "stat" else _content_print(path)
            kind, num_pages = _pages(path)
        except ItemError as error:
            yield make(fingerprint=_stat_print(state), error=error)
        else:
            for page in range(1, num_pages + 1) if num_pages else (None,):
                yield make(fingerprint=fingerprint, page=page, kind=kind)


def _pages(path: str) -> tuple[Kind, int]:
    """How a file is decoded, and its pages if they are items of their own: those of a PDF, or of a TIFF of several."""
    suffix = _suffix(path)
    if suffix == PDF_SUFFIX:
        from omnicap_cli.media import pdf

        return "pdf", pdf.num_pages(path)
    if suffix in TIFF_SUFFIXES:
        from omnicap_cli.media import images

        num_pages = images.num_pages(path)
        return "image", num_pages if num_pages > 1 else 0
    return "image", 0


def unique_items(items: Iterable[Item]) -> Iterator[Item]:
    """Each id once: an item given again is dropped, every other item with the same id becomes an error."""
    seen = KeyIndex()
    for item in items:
        name = _digest(item.id)
        columns = orjson.dumps(dict(item.meta), option=orjson.OPT_SORT_KEYS).decode()
        what = int.from_bytes(_digest(f"{plain_path(item.media.path)}\0{item.media.page}\0{columns}")[:7], "big")
        if seen.get(name) is None:
            seen.set(name, what)
            yield item
        elif seen.get(name) != what and seen.get(both := _digest(f"{item.id}\0{what}")) is None:
            seen.set(both, what)
            error = DuplicateIdError("another item has the same id")
            yield replace(item, fingerprint=f"{error.kind}:{what}", error=error)


def _item(
    path: str,
    *,
    fingerprint: str,
    page: int | None = None,
    kind: Kind = "image",
    own_id: str | None = None,
    meta: Mapping[str, Any] | None = None,
    error: ItemError | None = None,
) -> Item:
    shown = shown_path(path)
    name = own_id or shown
    return Item(
        id=f"{name}#page={page}" if page else name,
        image=shown,
        media=MediaRef(path=path, page=page, kind=kind),
        fingerprint=fingerprint,
        meta=meta or {},
        error=error,
    )


def _broken(path: str, error: ItemError, *, own_id: str | None = None, meta: Mapping[str, Any] | None = None) -> Item:
    return _item(path, fingerprint=error.kind, own_id=own_id, meta=meta, error=error)


def _excerpt(raw: bytes) -> str:
    """A line that names no item, short enough for an id; where it is cut, a digest keeps it apart from others."""
    if len(raw) <= _EXCERPT_BYTES:
        return os.fsdecode(raw)
    return f"{os.fsdecode(raw[:_EXCERPT_BYTES])}… ({hashlib.sha256(raw).hexdigest()[:16]})"


def _split(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """The pieces of a stream as soon as they come, empty ones left out."""
    rest, begun = b"", False
    while block := _read(stream):
        *pieces, rest = (rest + block).split(separator)
        if pieces and not begun:
            pieces[0], begun = pieces[0].removeprefix(codecs.BOM_UTF8), True
        yield from filter(None, pieces)
    if rest:
        yield rest if begun else rest.removeprefix(codecs.BOM_UTF8)


def _read(stream: BinaryIO) -> bytes:
    """What is there, at least one byte until the end."""
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    try:
        return read(_BLOCK_BYTES)
    except OSError as error:
        raise OmnicapError(f"can't read the standard input: {error.strerror}") from error


def _list_folder(folder: str) -> tuple[list[str], set[str]]:
    """The sorted names of pictures, PDFs and folders in a folder, and which of them are folders.

    Names only: what the system tells of each entry would take three times the memory.
    """
    names, folders = [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.add(entry.name)
            elif _suffix(entry.name) not in IMAGE_SUFFIXES and _suffix(entry.name) != PDF_SUFFIX:
                continue
            names.append(entry.name)
    names.sort()
    return names, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: reading it as a file says so
        return False


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _stat_print(state: os.stat_result) -> str:
    return f"stat:{state.st_size}:{state.st_mtime_ns}"


def _content_print(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise unreadable(error) from error
    return f"sha256:{digest.hexdigest()}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
