"""PDF pages to RGB pixels with PDFium. It knows nothing of where files come from.

PDFium is not thread-safe, so every call into it stands under one lock.
"""

from __future__ import annotations

import atexit
import bisect
import contextlib
import io
import math
import mmap
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import pypdfium2
from PIL import Image

from omnicap_cli.errors import DecodeError, EncryptedError, ItemError, UnsupportedError
from omnicap_cli.media.access import open_file, unreadable
from omnicap_cli.media.images import Size, check_size, to_rgb

_POINTS_PER_INCH: Final = 72
_lock = threading.Lock()
atexit.register(_lock.acquire)  # before PDFium is taken down: wait for the call that another thread is in


def num_pages(source: str | BinaryIO) -> int:
    """How many pages a PDF (a path, or the open file) has. Raises EncryptedError, DecodeError or another ItemError.

    A damaged or malicious file may claim more than there are: then those up to the first that can't be opened, and
    that one, so that the damage is on record.
    """
    with _opened(source) as document:
        count = len(document)
        if _opens(document, count):
            return count
        return 1 + bisect.bisect_left(range(1, count), True, key=lambda page: not _opens(document, page))


def page_size(source: str | BinaryIO, page: int, *, dpi: int) -> Size:
    """The size in pixels of page `page` (from 1) at `dpi`."""
    with _opened(source) as document:
        return _pixel_size(_page(document, page), dpi)


def decode_page(source: str | BinaryIO, page: int, *, dpi: int, max_decode_pixels: int) -> Image.Image:
    """Page `page` (from 1) rendered at `dpi` over white, as 8-bit RGB.

    Raises TooLargeError before rendering if that takes more than `max_decode_pixels`.
    """
    with _opened(source) as document:
        document.init_forms()  # else what is filled into a form is not drawn
        sheet = _page(document, page)
        check_size(*_pixel_size(sheet, dpi), max_decode_pixels=max_decode_pixels)
        try:
            # a picture in the page's own colours is smaller, but only RGB is the same for every page
            return to_rgb(sheet.render(scale=_scale(dpi), rev_byteorder=True).to_pil())
        except (pypdfium2.PdfiumError, ValueError) as error:
            raise DecodeError(f"page {page} can't be rendered: {error}") from error


@contextlib.contextmanager
def _opened(source: str | BinaryIO) -> Iterator[pypdfium2.PdfDocument]:
    if isinstance(source, str):
        with open_file(source) as file, _opened(file) as document:
            yield document
        return
    try:
        with _lock, contextlib.closing(_document(source)) as document:
            yield document
    except OSError as error:
        raise unreadable(error) from error


def _document(file: BinaryIO) -> Any:
    """The open document, read through `file`, which takes names that PDFium can't spell."""
    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        raise _refused(file, error) from error


def _refused(file: BinaryIO, error: Exception) -> ItemError:
    with _content(file) as content:
        if content.find(b"%PDF-", 0, 1024) < 0:
            return UnsupportedError("not a PDF, whatever its name says")
        # PDFium has no word for a PDF without pages, and then repeats its last one about another file
        if "password" in str(error).lower() and content.find(b"/Encrypt") >= 0:
            return EncryptedError("the PDF asks for a password; save it without one")
    return DecodeError("a damaged PDF, or one without pages")


@contextlib.contextmanager
def _content(file: BinaryIO) -> Iterator[bytes | mmap.mmap]:
    """All of a file to search in, without reading it all."""
    if isinstance(file, io.BytesIO):
        yield file.getvalue()
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _opens(document: Any, page: int) -> bool:
    try:
        _page(document, page).close()
    except DecodeError:
        return False
    return True


def _page(document: Any, page: int) -> Any:
    try:
        return document[page - 1]
    except (pypdfium2.PdfiumError, IndexError) as error:
        raise DecodeError(f"page {page} of the PDF can't be opened: {error}") from error


def _pixel_size(sheet: Any, dpi: int) -> Size:
    width, height = (math.ceil(side * _scale(dpi)) for side in sheet.get_size())
    return Size(width, height)


def _scale(dpi: int) -> float:
    """Pixels per point; a hair less, so that sides which come out whole are not rounded up to one pixel more."""
    return dpi / _POINTS_PER_INCH * (1 - 1e-9)
