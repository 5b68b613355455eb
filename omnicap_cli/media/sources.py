"""What a user names on the command line, as a stream of items. It opens no picture, but counts the pages of documents.

`walk` finds the files, archives and URLs; here a shard takes its part of them, and each becomes the items in it.
"""

from __future__ import annotations

import hashlib
import itertools
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, Literal

import orjson  # the columns of every row pass here

from omnicap_cli.core.files.words import printable
from omnicap_cli.core.runs.key_index import KEY_BYTES, KeyIndex
from omnicap_cli.core.runs.records import Item, MediaRef, Transfer
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.core.workers.prefetch import in_order
from omnicap_cli.errors import AccessError, DuplicateIdError, EmptyFileError, ItemError, ManifestError
from omnicap_cli.media import archives
from omnicap_cli.media.local_files import file_status, open_file, unreadable_error
from omnicap_cli.media.names import (
    IMAGE_SUFFIXES,
    PDF_SUFFIX,
    TIFF_SUFFIXES,
    is_archive,
    is_url,
    member_name,
    plain_path,
    shown_path,
    suffix_of,
)
from omnicap_cli.media.open_media import open_media
from omnicap_cli.media.page_counter import PageCounter
from omnicap_cli.media.remote import urls
from omnicap_cli.media.walk import Unit, Walk

Fingerprint = Literal["stat", "content", "none"]
MediaKind = Literal["image", "pdf"]
_NUM_CONNECTIONS: Final = 16  # URLs that are asked at once
_BLOCK_BYTES: Final = 1 << 20
_NUM_IN_BURST: Final = 16
_INDEX_BITS: Final = (1 << 62) - 1  # what a KeyIndex holds, signed
_counter: Final = PageCounter()


class UncountableError(Exception):
    """There is something among the inputs that would have to be downloaded to count what is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources(Walk):
    """Inputs in the order given; iterate over it to get the items, each id once.

    `inputs` are paths, folders, quoted globs, manifests, archives, URLs, or `-` for paths (or JSON objects) one a line
    on `stdin`, split at NUL with `null`. A manifest's column `image_key` names its pictures, which count from
    `image_root`, by default from the manifest's folder. `fingerprint` "none" is for counting: nothing is asked or read
    that a count can do without, and UncountableError is raised where too much would have to be. `warn` is told of
    inputs that hold nothing, and of archives whose columns belong to nothing.
    """

    fingerprint: Fingerprint = "stat"
    shard: Shard | None = None

    def __iter__(self) -> Iterator[Item]:
        return unique_items(self._items(self._units()))

    def _units(self) -> Iterator[Unit]:
        return self.units() if self.shard is None else _units_of_shard(self.units(), self.shard)

    def _items(self, units: Iterator[Unit]) -> Iterator[Item]:
        """The items of each unit in order; from the first URL on several are asked at once."""
        for unit in units:
            if is_url(unit.path) and self.fingerprint != "none":
                rest = itertools.chain((unit,), units)
                for found in in_order(rest, self._first_look, num_threads=_NUM_CONNECTIONS):
                    yield from found
                return
            yield from self._items_of(unit)

    def _first_look(self, unit: Unit) -> Iterable[Item]:
        """The items of a unit; what is slow about a URL is over when this returns."""
        return list(self._items_of(unit)) if is_url(unit.path) and not is_archive(unit.path) else self._items_of(unit)

    def _items_of(self, unit: Unit) -> Iterator[Item]:
        media, suffix = MediaRef(path=unit.path, content=unit.content), suffix_of(unit.path)
        try:
            if unit.error:
                raise unit.error
            if unit.content is not None:  # of a picture that a manifest holds itself
                suffix = PDF_SUFFIX if unit.content.startswith(b"%PDF-") else ""
                yield from self._pages(unit, media, suffix, _content_print(media, self.transfer))
            elif suffix not in IMAGE_SUFFIXES and is_archive(unit.path):
                yield from self._archive_items(unit)
            else:
                yield from self._pages(unit, media, suffix, self._file_print(media))
        except ItemError as error:
            yield _item(unit, replace(media, content=None), error=error)

    # ---------------------------------------------------------------------------------------- one file

    def _file_print(self, media: MediaRef) -> str:
        """The fingerprint of a whole file, here or behind a URL. Raises an ItemError where there is none to be read."""
        if is_url(media.path):
            if self.fingerprint == "none":
                return ""
            if self.fingerprint == "stat":
                return urls.describe(media.path, self.transfer).fingerprint
        else:
            state = file_status(media.path)
            if not stat.S_ISREG(state.st_mode):  # reading a FIFO would wait for ever
                raise AccessError("not a regular file")
            if state.st_size == 0:
                raise EmptyFileError("the file is empty")
            if self.fingerprint != "content":
                return f"stat:{state.st_size}:{state.st_mtime_ns}"
        return _content_print(media, self.transfer)

    def _pages(self, unit: Unit, media: MediaRef, suffix: str, fingerprint: str) -> Iterator[Item]:
        """One item, or one for each page of a PDF, and of a TIFF with several."""
        if self.fingerprint == "none" and is_url(media.path) and (suffix == PDF_SUFFIX or suffix in TIFF_SUFFIXES):
            raise UncountableError
        if media.content is None and is_url(media.path) and urls.is_in_process(media.path):
            media = replace(media, content=urls.fetch(media.path, self.transfer))
        kind: MediaKind = "pdf" if suffix == PDF_SUFFIX else "image"
        try:
            num_pages = _num_pages(media, kind, self.transfer) if kind == "pdf" or suffix in TIFF_SUFFIXES else 0
        except ItemError as error:
            yield _item(unit, replace(media, content=None), fingerprint=fingerprint, error=error)
            return
        if kind == "image" and num_pages < 2:
            yield _item(unit, media, fingerprint=fingerprint)
            return
        for page in range(1, num_pages + 1):
            yield _item(unit, replace(media, page=page, kind=kind), fingerprint=fingerprint)

    # ---------------------------------------------------------------------------------------- archives

    def _archive_items(self, unit: Unit) -> Iterator[Item]:
        if unit.own_id is not None:
            raise ManifestError("an id can't name all pictures of an archive")
        if is_url(unit.path) and self.fingerprint == "none":
            raise UncountableError
        if is_url(unit.path):
            with urls.open_stream(unit.path, self.transfer) as stream:
                yield from self._member_items(unit, stream, None)
            return
        state_print = self._file_print(MediaRef(path=unit.path))
        with open_file(unit.path) as file:
            if archives.is_plain_tar(file):
                yield from _in_bursts(self._member_items(unit, file, state_print))
            else:  # whose members bring their content, too much to hold several
                yield from self._member_items(unit, file, None)

    def _member_items(self, unit: Unit, file: BinaryIO, archive_print: str | None) -> Iterator[Item]:
        """The items of every member; with `archive_print` they are found again by their place in the file."""
        archive = shown_path(unit.path)
        found = archives.read_members(
            file,
            in_place=archive_print is not None,
            max_bytes=self.transfer.max_bytes,
            warn=lambda problem: self.warn(f"{printable(archive)}: {problem}"),
        )
        for member in found:
            shown = member_name(archive, member.name)
            part = Unit(path=unit.path, shown=shown, meta={**unit.meta, **member.meta})
            media = MediaRef(path=unit.path, span=member.span, content=member.content)
            if member.error:
                yield _item(part, media, error=member.error)
            else:
                yield from self._pages(part, media, suffix_of(member.name), self._member_print(media, archive_print))

    def _member_print(self, media: MediaRef, archive_print: str | None) -> str:
        if self.fingerprint == "none":
            return ""
        if media.span is not None and self.fingerprint == "stat":
            return f"{archive_print}:{media.span.offset_bytes}"
        return _content_print(media, self.transfer)


def _units_of_shard(units: Iterable[Unit], shard: Shard) -> Iterator[Unit]:
    """Those of a shard. Archives, of which there may be few, are dealt in turns, found or not; all else by name."""
    num_archives = 0
    for unit in units:
        if is_archive(unit.path):
            is_mine = shard.takes_number(num_archives)
            num_archives += 1
        else:
            is_mine = shard.takes_name(unit.own_id or shown_path(unit.path))
        if is_mine:
            yield unit


def _in_bursts(items: Iterator[Item]) -> Iterator[Item]:
    """Several at a time: to take turns with threads that decode after each one costs more than to find it."""
    found: list[Item] = []
    try:
        for item in items:
            found.append(item)
            if len(found) == _NUM_IN_BURST:
                yield from found
                found = []
    except Exception:  # which comes behind what was found before it
        yield from found
        raise
    yield from found


def _num_pages(media: MediaRef, kind: MediaKind, transfer: Transfer) -> int:
    if kind == "pdf":
        return _counter.num_pages(media, transfer)
    from omnicap_cli.media import images

    with open_media(media, transfer) as file:
        return images.num_image_pages(file)


def _item(unit: Unit, media: MediaRef, *, fingerprint: str | None = None, error: ItemError | None = None) -> Item:
    shown = unit.shown or shown_path(unit.path)
    name = unit.own_id or shown
    return Item(
        id=f"{name}#page={media.page}" if media.page else name,
        image=shown,
        visuals=(media,),
        fingerprint=fingerprint or (error.kind if error else ""),
        meta=unit.meta,
        error=error,
    )


def unique_items(items: Iterable[Item]) -> Iterator[Item]:
    """Each id once: an item given again is dropped, every other item with the same id becomes an error."""
    seen = KeyIndex()
    for item in items:
        name, what = _text_digest(item.id), _picture_and_columns(item)
        number = hash(what) & _INDEX_BITS  # of this process alone, but quick
        if seen.get(name) is None:
            seen.set(name, number)
            yield item
        elif seen.get(name) != number and seen.get(both := _text_digest(f"{item.id}\0{what}")) is None:
            seen.set(both, number)
            error = DuplicateIdError("another item has the same id; a manifest's column id can tell them apart")
            yield replace(item, fingerprint=f"{error.kind}:{_text_digest(repr(what)).hex()}", error=error)


def _picture_and_columns(item: Item) -> tuple[object, ...]:
    """What tells items of one id apart: their picture, and their columns."""
    media = item.visuals[0]
    columns = orjson.dumps(dict(item.meta), option=orjson.OPT_SORT_KEYS) if item.meta else b""
    if media.span or media.content:
        return plain_path(media.path), media.page, columns, media.span, item.fingerprint
    return plain_path(media.path), media.page, columns


def _content_print(media: MediaRef, transfer: Transfer) -> str:
    digest = hashlib.sha256()
    with open_media(media, transfer) as file:
        try:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        except OSError as error:
            raise unreadable_error(error) from error
    return f"sha256:{digest.hexdigest()}"


def _text_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
