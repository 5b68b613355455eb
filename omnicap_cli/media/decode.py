"""Pixels of an item, now or ahead of time. It knows items and decoders, and not what the pixels are for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from PIL import Image

from omnicap_cli.core.records import Item, Settings
from omnicap_cli.errors import ItemError, OutOfMemoryError
from omnicap_cli.media import images

T = TypeVar("T")


class Pixels(NamedTuple):
    """An RGB picture within the asked limits, and its size in pixels before they were applied."""

    image: Image.Image
    width: int
    height: int


def decode(item: Item, settings: Settings) -> Pixels:
    """Decode an image file or a PDF page. Raises an ItemError where that can't be done."""
    if item.error:
        raise item.error
    media, limit = item.media, settings.max_decode_pixels
    page = media.page or 1
    if media.kind == "pdf":
        from omnicap_cli.media import pdf  # PDFium is loaded only where there are PDFs

        image = pdf.decode_page(media.path, page, dpi=settings.dpi, max_decode_pixels=limit)
    else:
        image = images.decode_image(media.path, page, max_decode_pixels=limit)
    fitted = images.fit_pixels(image, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    return Pixels(fitted, image.width, image.height)


def probe(item: Item, settings: Settings) -> images.Size:
    """The size that `decode` would report, from headers alone. Raises an ItemError where there is none."""
    if item.error:
        raise item.error
    media, page = item.media, item.media.page or 1
    if media.kind == "pdf":
        from omnicap_cli.media import pdf

        return pdf.page_size(media.path, page, dpi=settings.dpi)
    return images.header_size(media.path, page, max_decode_pixels=settings.max_decode_pixels)


def decode_ahead(
    source: Iterable[T], decoder: Callable[[T], Pixels], *, look_ahead: int = 1
) -> Iterator[tuple[T, Pixels | ItemError]]:
    """Decode what comes from `source` in a thread, in order, at most `look_ahead` ahead of the one in use.

    An ItemError takes the place of the pixels; whatever else the source or the decoder raises is raised here.
    """
    ahead: queue.SimpleQueue[tuple[T, Pixels | ItemError] | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(look_ahead + 1)
    abandoned = threading.Event()

    def work() -> None:
        try:
            for element in source:
                while not room.acquire(timeout=0.5):
                    if abandoned.is_set():
                        return
                ahead.put((element, _decoded(element, decoder)))
            ahead.put(None)
        except BaseException as error:  # noqa: BLE001  handed to the consumer, who raises it
            ahead.put(error)

    threading.Thread(target=work, name="decode-ahead", daemon=True).start()
    try:
        while (entry := ahead.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
            del entry  # the pixels, before the next are waited for
            room.release()
    finally:
        abandoned.set()


def _decoded(element: T, decoder: Callable[[T], Pixels]) -> Pixels | ItemError:
    try:
        return decoder(element)
    except ItemError as error:
        return error
    except MemoryError:
        return OutOfMemoryError("not enough memory to decode it; with fewer --workers there is more for each")
