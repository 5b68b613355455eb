"""The picture of a record, found again after a run. It knows the names in records, and nothing of who wants pixels."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from omnicap_cli.core.files.words import one_line, printable
from omnicap_cli.core.runs.records import Item, MediaRef, Settings, Span, Transfer
from omnicap_cli.errors import DecodeError, NotFoundError
from omnicap_cli.media import archives, manifests
from omnicap_cli.media.local_files import open_file
from omnicap_cli.media.names import (
    IMAGE_SUFFIXES,
    PDF_SUFFIX,
    is_archive,
    is_media_name,
    is_url,
    path_of_shown,
    split_member,
    suffix_of,
    without_query,
)
from omnicap_cli.media.open_media import open_media
from omnicap_cli.media.remote import urls

if TYPE_CHECKING:
    from omnicap_cli.media.decode import Pixels

_MAX_PASSED_BYTES: Final = 1 << 26  # of members that a stream went past, for records that come a little later
_NUM_ARCHIVES: Final = 4  # that are kept open to be read on
_ROW_MARK: Final = "#row="
_DEFAULT_COLUMN: Final = "image"  # as long as a run is told no other


class PictureFile(NamedTuple):
    """A picture as a file: as it is, or a page as PNG. `suffix` is in small letters, with its dot."""

    content: bytes
    suffix: str


class RecordPictures:
    """Pictures of the records of one journal; safe to use from several threads.

    Relative paths count from `folders`, the first in which there is such a file. Records should come in about the
    order of the run: an archive that is compressed or behind a URL is read from front to back. `image_key` is the
    column of parquet that was captioned; where it isn't known it is `image`, or the only one that holds pictures.
    """

    def __init__(
        self, *, folders: tuple[str, ...] = ("",), image_key: str | None = None, transfer: Transfer | None = None
    ) -> None:
        self.folders, self._image_key = folders, image_key
        self._transfer = transfer or Transfer()
        self._lock = threading.Lock()
        self.containers: set[Path] = set()  # archives and manifests that pictures came from
        self._archives: dict[str, _ArchivePictures] = {}
        self._rows: _ParquetPictures | None = None

    def path_of(self, record: Mapping[str, Any]) -> str | None:
        """The local file that is the picture; None where it is a page, or inside of something, or elsewhere."""
        shown = str(record.get("image"))
        if record.get("page") is not None or self._inside(shown) or is_url(shown):
            return None
        return self._local(shown)

    def file_of(self, record: Mapping[str, Any]) -> PictureFile:
        """The picture's file, unchanged; a page of a document as PNG. Raises an ItemError where it is gone."""
        media = self.media_of(record)
        if media.kind == "pdf" or media.page is not None:
            buffer = io.BytesIO()
            self.pixels_of(record).image.save(buffer, "PNG", compress_level=1)
            return PictureFile(buffer.getvalue(), ".png")
        with open_media(media, self._transfer) as file:
            content = file.read()
        name = (split_member(str(record.get("image"))) or ("", str(record.get("image"))))[1]
        suffix = suffix_of(name)
        return PictureFile(content, suffix if suffix in IMAGE_SUFFIXES else _suffix_by_content(content))

    def pixels_of(self, record: Mapping[str, Any]) -> Pixels:
        """The picture decoded as for the run, but in its full size. Raises an ItemError."""
        from omnicap_cli.media.decode import decode  # the decoders are heavy, and most exports want none

        media = self.media_of(record)
        used = record.get("settings")
        dpi = used.get("dpi") if isinstance(used, dict) else None
        settings = Settings(dpi=dpi if isinstance(dpi, int) and dpi > 0 else 150, transfer=self._transfer)
        return decode(Item(id="", image="", media=media, fingerprint=""), settings)

    def media_of(self, record: Mapping[str, Any]) -> MediaRef:
        """Where the picture is. Raises an ItemError where it is gone."""
        shown, page = str(record.get("image")), record.get("page")
        page = page if isinstance(page, int) else None
        inside = self._inside(shown)
        if inside is None:
            return _with_kind(MediaRef(path=shown if is_url(shown) else self._local(shown), page=page), shown)
        container, name = inside
        with self._lock:
            found = self._row(container, name) if _ROW_MARK in shown else self._member(container, name)
        return _with_kind(MediaRef(path=found.path, page=page, span=found.span, content=found.content), name)

    def _inside(self, shown: str) -> tuple[str, str] | None:
        """The archive or manifest that holds a picture, and the member's name or the row's number."""
        member = split_member(shown)
        if member and is_archive(member[0]):
            return member
        manifest, mark, row = shown.rpartition(_ROW_MARK)
        return (
            (manifest, row) if mark and row.isdecimal() and manifests.manifest_format(without_query(manifest)) else None
        )

    def _local(self, shown: str) -> str:
        for name in dict.fromkeys((shown, path_of_shown(shown))):
            for folder in self.folders:
                path = os.path.join(folder, name)
                if os.path.lexists(path):
                    return path
        raise NotFoundError(f"the picture {shown} isn't there any more; --image-root tells where relative paths begin")

    def _member(self, container: str, name: str) -> MediaRef:
        if container not in self._archives:
            path = container if is_url(container) else self._local(container)
            while len(self._archives) >= _NUM_ARCHIVES:
                del self._archives[next(iter(self._archives))]
            self._archives[container] = _ArchivePictures(container, path, self._transfer)
            self.containers.add(Path(path).resolve())
        return self._archives[container].find(name)

    def _row(self, container: str, number: str) -> MediaRef:
        if self._rows is None or self._rows.name != container:
            if is_url(container):
                file = urls.seekable_copy(container, self._transfer)
            else:
                file = open_file(self._local(container))
                self.containers.add(Path(file.name).resolve())
            self._rows = _ParquetPictures(container, file, self._image_key)
        return self._rows.find(int(number))


class _ArchivePictures:
    """One archive: of a plain local one the places of all members are known, any other is read on when asked."""

    def __init__(self, name: str, path: str, transfer: Transfer) -> None:
        self.name, self._path, self._transfer = name, path, transfer
        self._spans: dict[str, Span] = {}
        self._passed: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._num_passed_bytes = 0
        self._missing: set[str] = set()
        self._ahead: Iterator[archives.Member] = iter(())
        self._is_plain = not is_url(path) and self._index()

    def find(self, name: str) -> MediaRef:
        if self._is_plain and name in self._spans:
            return MediaRef(path=self._path, span=self._spans[name])
        if not self._is_plain and name not in self._missing:
            if name in self._passed or self._read_to(name) or self._read_again_to(name):
                return MediaRef(path=self._path, content=self._passed[name])
            self._missing.add(name)  # not to be looked for in all of it again
        raise NotFoundError(f"there is no {name} in {self.name} any more")

    def _index(self) -> bool:
        with open_file(self._path) as file:
            if not archives.is_plain_tar(file):
                return False
            with contextlib.suppress(DecodeError):  # it breaks off: what came before that is there
                for member in self._members(file, in_place=True):
                    if member.span:
                        self._spans.setdefault(member.name, member.span)
            return True

    def _read_again_to(self, name: str) -> bool:
        self._ahead = self._stream()
        return self._read_to(name)

    def _read_to(self, name: str) -> bool:
        with contextlib.suppress(DecodeError):
            for member in self._ahead:
                if member.content is None:
                    continue
                self._num_passed_bytes += len(member.content) - len(self._passed.pop(member.name, b""))
                self._passed[member.name] = member.content
                while self._num_passed_bytes > _MAX_PASSED_BYTES and len(self._passed) > 1:
                    self._num_passed_bytes -= len(self._passed.popitem(last=False)[1])
                if member.name == name:
                    return True
        return False

    def _stream(self) -> Iterator[archives.Member]:
        is_remote = is_url(self._path)
        with urls.open_stream(self._path, self._transfer) if is_remote else open_file(self._path) as file:
            yield from self._members(file, in_place=False)

    def _members(self, file: Any, *, in_place: bool) -> Iterator[archives.Member]:
        return archives.read_members(file, wanted=is_media_name, in_place=in_place, max_bytes=self._transfer.max_bytes)


class _ParquetPictures:
    """The pictures in one parquet file, by their row from 1; one row group is held."""

    def __init__(self, name: str, file: BinaryIO, image_key: str | None) -> None:
        import pyarrow.parquet

        self.name = name
        with self._own_errors():
            self._table = pyarrow.parquet.ParquetFile(file)
        self._column, self._why_none = _column_of_pictures(self._table.schema_arrow, image_key)
        self._group: tuple[int, Any] = (-1, None)

    def find(self, number: int) -> MediaRef:
        """The picture of a row. Raises an ItemError."""
        with self._own_errors():
            return self._picture_in_row(number)

    @contextlib.contextmanager
    def _own_errors(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            raise DecodeError(f"{self.name} can't be read: {one_line(error)}") from error

    def _picture_in_row(self, number: int) -> MediaRef:
        if self._column is None:
            raise NotFoundError(f"{self.name} {self._why_none}")
        group, place = 0, number - 1
        metadata = self._table.metadata
        while group < metadata.num_row_groups and place >= (num_rows := metadata.row_group(group).num_rows):
            group, place = group + 1, place - num_rows
        if place < 0 or group == metadata.num_row_groups:
            raise NotFoundError(f"there is no picture in row {number} of {self.name} any more")
        if self._group[0] != group:
            self._group = (group, self._table.read_row_group(group, columns=[self._column])[self._column])
        value = manifests.parquet_value(self._group[1][place])
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise NotFoundError(f"there is no picture in row {number} of {self.name} any more")
        return MediaRef(path=self.name, content=content)


class _PictureColumn(NamedTuple):
    name: str | None
    why_none: str = ""


def _column_of_pictures(schema: Any, image_key: str | None) -> _PictureColumn:
    """The one that was captioned: of two that hold pictures the wrong one would be taken for it without a word."""
    import pyarrow

    names = schema.names
    held = {
        each.name: each.type for each in schema if manifests.holds_pictures(each.type) and names.count(each.name) == 1
    }
    there = ", ".join(map(printable, held)) or "none"
    if image_key is not None:
        why_none = f"holds no pictures in the column {image_key!r} any more; columns that hold some: {there}"
        return _PictureColumn(image_key) if image_key in held else _PictureColumn(None, why_none)
    if _DEFAULT_COLUMN in held:
        return _PictureColumn(_DEFAULT_COLUMN)
    # what is all of one size is a digest or a UUID, unless somebody calls it pictures
    likely = [name for name, kind in held.items() if not pyarrow.types.is_fixed_size_binary(kind)]
    if len(likely) == 1:
        return _PictureColumn(likely[0])
    return _PictureColumn(None, f"doesn't tell which of its columns is meant; columns that hold pictures: {there}")


def _with_kind(media: MediaRef, name: str) -> MediaRef:
    """With the way in which it is decoded."""

    is_pdf = suffix_of(name) == PDF_SUFFIX or (media.content or b"").startswith(b"%PDF-")
    return replace(media, kind="pdf") if is_pdf else media


def _suffix_by_content(content: bytes) -> str:
    """By what Pillow takes it for; raises an ItemError where that is nothing."""
    from omnicap_cli.media.images import format_of

    return f".{format_of(io.BytesIO(content)).lower()}".replace(".jpeg2000", ".jp2").replace(".jpeg", ".jpg")
