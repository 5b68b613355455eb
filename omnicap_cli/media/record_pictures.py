"""The picture of a record, found again after a run. It knows the names in records, and nothing of who wants pixels."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from omnicap_cli.core.runs.records import MediaRef, Settings, Transfer
from omnicap_cli.errors import NotFoundError
from omnicap_cli.media import manifests
from omnicap_cli.media.container_pictures import ArchivePictures, ParquetPictures
from omnicap_cli.media.local_files import open_file
from omnicap_cli.media.names import (
    IMAGE_SUFFIXES,
    PDF_SUFFIX,
    is_archive,
    is_url,
    possible_paths,
    split_member,
    suffix_of,
    without_query,
)
from omnicap_cli.media.open_media import open_media
from omnicap_cli.media.remote import urls

if TYPE_CHECKING:
    from omnicap_cli.media.decode import Pixels

_NUM_ARCHIVES: Final = 4  # that are kept open to be read on
_ROW_MARK: Final = "#row="


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
        self._archives: dict[str, ArchivePictures] = {}
        self._rows: ParquetPictures | None = None

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
        from omnicap_cli.media.decode import decode_visual  # the decoders are heavy, and most exports want none

        media = self.media_of(record)
        used = record.get("settings")
        dpi = used.get("dpi") if isinstance(used, dict) else None
        settings = Settings(dpi=dpi if isinstance(dpi, int) and dpi > 0 else 150, transfer=self._transfer)
        return decode_visual(media, settings)

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
        path = next(filter(os.path.lexists, possible_paths(shown, self.folders)), None)
        if path is None:
            remedy = "--image-root tells where relative paths begin"
            raise NotFoundError(f"the picture {shown} isn't there any more; {remedy}")
        return path

    def _member(self, container: str, name: str) -> MediaRef:
        if container not in self._archives:
            path = container if is_url(container) else self._local(container)
            while len(self._archives) >= _NUM_ARCHIVES:
                del self._archives[next(iter(self._archives))]
            self._archives[container] = ArchivePictures(container, path, self._transfer)
            self.containers.add(Path(path).resolve())
        return self._archives[container].find(name)

    def _row(self, container: str, number: str) -> MediaRef:
        if self._rows is None or self._rows.name != container:
            if is_url(container):
                file = urls.seekable_copy(container, self._transfer)
            else:
                file = open_file(self._local(container))
                self.containers.add(Path(file.name).resolve())
            self._rows = ParquetPictures(container, file, self._image_key)
        return self._rows.find(int(number))


def _with_kind(media: MediaRef, name: str) -> MediaRef:
    """With the way in which it is decoded."""
    is_pdf = suffix_of(name) == PDF_SUFFIX or (media.content or b"").startswith(b"%PDF-")
    return replace(media, kind="pdf") if is_pdf else media


def _suffix_by_content(content: bytes) -> str:
    """By what Pillow takes it for; raises an ItemError where that is nothing."""
    from omnicap_cli.media.images import format_of

    return f".{format_of(io.BytesIO(content)).lower()}".replace(".jpeg2000", ".jp2").replace(".jpeg", ".jpg")
