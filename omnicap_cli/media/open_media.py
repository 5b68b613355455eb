"""From a reference to an open file: on disk, inside an archive, behind a URL, or in memory. It decodes nothing."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from typing import BinaryIO

from omnicap_cli.core.runs.records import MediaRef, Span, Transfer
from omnicap_cli.errors import DecodeError, TooLargeError
from omnicap_cli.media.local_files import open_file, unreadable_error
from omnicap_cli.media.remote import urls


def open_media(media: MediaRef, transfer: Transfer) -> BinaryIO:
    """The file of a picture or document, seekable. Raises an ItemError where it can't be had."""
    if media.content is not None:
        return io.BytesIO(media.content)
    if urls.is_url(media.path):
        return io.BytesIO(_fetch(media, transfer))
    if media.span is not None:
        return io.BytesIO(_read_span(media.path, media.span, transfer))
    return open_file(media.path)


def with_remote_content(media: MediaRef, transfer: Transfer) -> MediaRef:
    """The same, with the file in memory if it comes from elsewhere. Raises an ItemError where it can't be had."""
    if media.content is not None or not urls.is_url(media.path):
        return media
    return replace(media, content=_fetch(media, transfer))


def _fetch(media: MediaRef, transfer: Transfer) -> bytes:
    if media.page is None:
        return urls.fetch(media.path, transfer)
    return _fetch_document(media.path, transfer)


@functools.lru_cache(maxsize=1)  # of the pages of one document, which come one after the other
def _fetch_document(url: str, transfer: Transfer) -> bytes:
    return urls.fetch(url, transfer)


def _read_span(path: str, span: Span, transfer: Transfer) -> bytes:
    if span.num_bytes > transfer.max_bytes:
        raise TooLargeError(f"{span.num_bytes:,} bytes in an archive are more than --max-file-bytes")
    try:
        with open_file(path) as file:
            file.seek(span.offset_bytes)
            content = file.read(span.num_bytes)
    except OSError as error:
        raise unreadable_error(error) from error
    if len(content) < span.num_bytes:
        raise DecodeError(f"the archive ends {len(content):,} bytes into it, of {span.num_bytes:,}")
    return content
