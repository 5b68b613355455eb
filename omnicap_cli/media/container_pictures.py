"""The pictures of one archive or one parquet file, found again by the name or the row that a record gives."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from omnicap_cli.core.files.words import one_line, printable
from omnicap_cli.core.runs.records import MediaRef, Span, Transfer
from omnicap_cli.errors import DecodeError, NotFoundError
from omnicap_cli.media import archives
from omnicap_cli.media.local_files import open_file
from omnicap_cli.media.names import is_url
from omnicap_cli.media.parquet_values import holds_pictures, parquet_value
from omnicap_cli.media.remote import urls

_MAX_PASSED_BYTES: Final = 1 << 26  # of members that a stream went past, for records that come a little later
_DEFAULT_COLUMN: Final = "image"  # as long as a run is told no other


class ArchivePictures:
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
        return archives.read_members(file, in_place=in_place, max_bytes=self._transfer.max_bytes)


class ParquetPictures:
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
            content = self._content_of_row(number)
        if not isinstance(content, bytes):
            raise NotFoundError(f"there is no picture in row {number} of {self.name} any more")
        return MediaRef(path=self.name, content=content)

    @contextlib.contextmanager
    def _own_errors(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            raise DecodeError(f"{self.name} can't be read: {one_line(error)}") from error

    def _content_of_row(self, number: int) -> Any:
        if self._column is None:
            raise NotFoundError(f"{self.name} {self._why_none}")
        group, place = 0, number - 1
        metadata = self._table.metadata
        while group < metadata.num_row_groups and place >= (num_rows := metadata.row_group(group).num_rows):
            group, place = group + 1, place - num_rows
        if place < 0 or group == metadata.num_row_groups:
            return None
        if self._group[0] != group:
            self._group = (group, self._table.read_row_group(group, columns=[self._column])[self._column])
        value = parquet_value(self._group[1][place])
        return value.get("bytes") if isinstance(value, dict) else value


def _column_of_pictures(schema: Any, image_key: str | None) -> tuple[str | None, str]:
    """The one that was captioned, or why there is none.

    Of two that hold pictures the wrong one would be taken for it without a word.
    """
    import pyarrow

    names = schema.names
    held = {each.name: each.type for each in schema if holds_pictures(each.type) and names.count(each.name) == 1}
    there = ", ".join(map(printable, held)) or "none"
    if image_key is not None:
        why_none = f"holds no pictures in the column {image_key!r} any more; columns that hold some: {there}"
        return (image_key, "") if image_key in held else (None, why_none)
    if _DEFAULT_COLUMN in held:
        return _DEFAULT_COLUMN, ""
    # what is all of one size is a digest or a UUID, unless somebody calls it pictures
    likely = [name for name, kind in held.items() if not pyarrow.types.is_fixed_size_binary(kind)]
    if len(likely) == 1:
        return likely[0], ""
    return None, f"doesn't tell which of its columns is meant; columns that hold pictures: {there}"
