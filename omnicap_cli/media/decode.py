"""Pixels of an item, now or ahead of time. It knows items and decoders, and not what the pixels are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from PIL import Image

from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.core.workers.prefetch import in_order
from omnicap_cli.errors import ItemError, OutOfMemoryError, UnsupportedError
from omnicap_cli.media import headers, images
from omnicap_cli.media.names import is_url
from omnicap_cli.media.open_media import open_media

T = TypeVar("T")


class Pixels(NamedTuple):
    """An RGB picture within the asked limits, and its size in pixels before they were applied."""

    image: Image.Image
    width: int
    height: int


def decode(item: Item, settings: Settings) -> Pixels:
    """The pixels of an item with one picture or page. Raises an ItemError where that can't be done."""
    if item.error:
        raise item.error
    if len(item.visuals) != 1:
        raise UnsupportedError(f"it has {len(item.visuals) or 'no'} pictures, and this takes one")
    return decode_visual(item.visuals[0], settings)


def decode_visual(media: MediaRef, settings: Settings) -> Pixels:
    """Decode an image file or a PDF page. Raises an ItemError where that can't be done."""
    limit, page = settings.max_decode_pixels, media.page or 1
    _refuse_clip(media)
    with open_media(media, settings.transfer) as file:
        if media.kind == "pdf":
            from omnicap_cli.media import pdf  # PDFium is loaded only where there are PDFs

            image = pdf.decode_page(file, page, dpi=settings.dpi, max_decode_pixels=limit)
        else:
            image = images.decode_image(file, page, max_decode_pixels=limit)
    fitted = images.fit_pixels(image, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    return Pixels(fitted, image.width, image.height)


def probe_visual(media: MediaRef, settings: Settings) -> images.Size:
    """The size that `decode_visual` would report, from headers alone. Raises an ItemError where there is none."""
    is_whole_file = media.content is None and media.span is None and not is_url(media.path)
    if is_whole_file and media.page is None and media.kind == "image":
        return headers.quick_size(media.path, max_decode_pixels=settings.max_decode_pixels)
    _refuse_clip(media)
    page = media.page or 1
    with open_media(media, settings.transfer) as file:
        if media.kind == "pdf":
            from omnicap_cli.media import pdf

            return pdf.page_size(file, page, dpi=settings.dpi)
        return images.header_size(file, page, max_decode_pixels=settings.max_decode_pixels)


def _refuse_clip(media: MediaRef) -> None:
    if media.kind == "video":
        raise UnsupportedError("it is a video, and this takes pictures")


def decode_ahead(
    source: Iterable[T], decoder: Callable[[T], Pixels], *, look_ahead: int = 1
) -> Iterator[tuple[T, Pixels | ItemError]]:
    """Decode what comes from `source` in a thread, in order, at most `look_ahead` ahead of the one in use.

    An ItemError takes the place of the pixels; whatever else the source or the decoder raises is raised here.
    """
    return in_order(source, lambda each: (each, _pixels_or_error(each, decoder)), num_threads=1, look_ahead=look_ahead)


def _pixels_or_error(element: T, decoder: Callable[[T], Pixels]) -> Pixels | ItemError:
    try:
        return decoder(element)
    except ItemError as error:
        return error
    except MemoryError:
        return OutOfMemoryError("not enough memory to decode it; with fewer --workers there is more for each")
