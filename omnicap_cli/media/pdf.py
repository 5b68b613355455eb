"""PDF pages to RGB pixels with PDFium. It knows nothing of where files come from.

PDFium is not thread-safe, so every call into it stands under one lock. The document read last stays open for the next
page, which is most often one of its own: in a long one just opened, finding a page takes longer than rendering it.
"""

from __future__ import annotations

import atexit
import bisect
import contextlib
import io
import math
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import pypdfium2
from PIL import Image

from omnicap_cli.core.files.file_state import FileState
from omnicap_cli.errors import DecodeError, EncryptedError, ItemError, UnsupportedError
from omnicap_cli.media.images import Size, check_size, to_rgb
from omnicap_cli.media.local_files import open_file, unreadable_error

_POINTS_PER_INCH: Final = 72
_MAX_USES: Final = 64  # of a document that stays open: until it is closed, PDFium holds all that it has read of it,
_MAX_BYTES_HELD: Final = 32 << 20  # which shall be no more than this, if its pages are of about one size in bytes
_lock = threading.Lock()
# Python's own end of all finalizers, pypdfium2's of documents among them, is registered by the first one that there is;
# that has to be before `_close_at_exit`, so that it comes after
weakref.finalize(_lock, int)


def num_pdf_pages(source: str | BinaryIO) -> int:
    """How many pages a PDF (a path, or the open file) has. Raises EncryptedError, DecodeError or another ItemError.

    A damaged or malicious file may claim more than there are: then those up to the first that can't be opened, and
    that one, so that the damage is on record.
    """
    with _open_document(source) as document:
        count = len(document)
        if _page_opens(document, count):
            return count
        return 1 + bisect.bisect_left(range(1, count), True, key=lambda page: not _page_opens(document, page))


def page_size(source: str | BinaryIO, page: int, *, dpi: int) -> Size:
    """The size in pixels of page `page` (from 1) at `dpi`."""
    with _open_document(source) as document, _open_page(document, page) as sheet:
        return _pixel_size(sheet, dpi)


def decode_page(source: str | BinaryIO, page: int, *, dpi: int, max_decode_pixels: int) -> Image.Image:
    """Page `page` (from 1) rendered at `dpi` over white, as 8-bit RGB.

    Raises TooLargeError before rendering if that takes more than `max_decode_pixels`.
    """
    with _open_document(source) as document:
        document.init_forms()  # else what is filled into a form is not drawn
        with _open_page(document, page) as sheet:
            check_size(*_pixel_size(sheet, dpi), max_decode_pixels=max_decode_pixels)
            try:
                # a picture in the page's own colours is smaller, but only RGB is the same for every page
                return to_rgb(sheet.render(scale=_pixels_per_point(dpi), rev_byteorder=True).to_pil())
            except (pypdfium2.PdfiumError, ValueError) as error:
                raise DecodeError(f"page {page} can't be rendered: {error}") from error


@contextlib.contextmanager
def _open_document(source: str | BinaryIO) -> Iterator[pypdfium2.PdfDocument]:
    with open_file(source) if isinstance(source, str) else contextlib.nullcontext(source) as file:
        is_in_memory = isinstance(file, io.BytesIO)
        try:
            with _lock, _parse_document(file) if is_in_memory else _last_document.open(file) as document:
                yield document
        except OSError as error:
            raise unreadable_error(error) from error


class _LastDocument:
    """The document that was asked for last, until another is, or something fails. To be used under the lock."""

    def __init__(self) -> None:
        self._document: Any = None
        self._state: FileState | None = None
        self._num_left = 0
        self._open = contextlib.ExitStack()

    @contextlib.contextmanager
    def open(self, file: BinaryIO) -> Iterator[Any]:
        """The document in `file`, which may be closed afterwards."""
        state = FileState.of(os.fstat(file.fileno()))
        if state != self._state or not self._num_left:
            self.close()
            self._open_another(file, state)
        self._num_left -= 1
        try:
            yield self._document
        except BaseException:
            self.close()
            raise

    def _open_another(self, file: BinaryIO, state: FileState) -> None:
        with contextlib.ExitStack() as opening:
            # while a descriptor is open, no other file gets the inode that is in the state
            own = opening.enter_context(os.fdopen(os.dup(file.fileno()), "rb"))
            self._document = opening.enter_context(_parse_document(own))
            page_bytes = state.num_bytes / len(self._document)
            self._num_left = max(1, min(_MAX_USES, int(_MAX_BYTES_HELD / page_bytes)))
            self._state, self._open = state, opening.pop_all()

    def close(self) -> None:
        self._document = self._state = None
        self._open.close()


_last_document = _LastDocument()


@atexit.register
def _close_at_exit() -> None:
    """Before PDFium is taken down: wait for the call that another thread is in, and let none begin another."""
    _lock.acquire()
    _last_document.close()


def _parse_document(file: BinaryIO) -> contextlib.closing[Any]:
    """The open document, read through `file`, which takes names that PDFium can't spell."""
    try:
        return contextlib.closing(pypdfium2.PdfDocument(file))
    except pypdfium2.PdfiumError as error:
        raise _document_error(file, error) from error


def _document_error(file: BinaryIO, error: Exception) -> ItemError:
    with _searchable_content(file) as content:
        if content.find(b"%PDF-", 0, 1024) < 0:
            return UnsupportedError("not a PDF, whatever its name says")
        # PDFium has no word for a PDF without pages, and then repeats its last one about another file
        if "password" in str(error).lower() and content.find(b"/Encrypt") >= 0:
            return EncryptedError("the PDF asks for a password; save it without one")
    return DecodeError("a damaged PDF, or one without pages")


@contextlib.contextmanager
def _searchable_content(file: BinaryIO) -> Iterator[bytes | mmap.mmap]:
    """All of a file to search in, without reading it all."""
    if isinstance(file, io.BytesIO):
        yield file.getvalue()
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _page_opens(document: Any, page: int) -> bool:
    try:
        with _open_page(document, page):
            return True
    except DecodeError:
        return False


def _open_page(document: Any, page: int) -> contextlib.closing[Any]:
    try:
        return contextlib.closing(document[page - 1])
    except (pypdfium2.PdfiumError, IndexError) as error:
        raise DecodeError(f"page {page} of the PDF can't be opened: {error}") from error


def _pixel_size(sheet: Any, dpi: int) -> Size:
    width, height = (math.ceil(side * _pixels_per_point(dpi)) for side in sheet.get_size())
    return Size(width, height)


def _pixels_per_point(dpi: int) -> float:
    """Pixels per point; a hair less, so that sides which come out whole are not rounded up to one pixel more."""
    return dpi / _POINTS_PER_INCH * (1 - 1e-9)
