"""Files behind URLs, whatever their protocol: what is there, and its bytes. It knows nothing of what the bytes mean.

Web servers are asked directly, everything else through fsspec, whose packages for single protocols a user installs as
needed. Nothing here raises an exception of any of these libraries.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import AccessError, DownloadError, OmnicapError, UnsupportedError
from omnicap_cli.media.names import is_url as is_url
from omnicap_cli.media.names import split_chain
from omnicap_cli.media.remote.failures import TRY_AGAIN, error_for_user, too_large_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES: Final = 1 << 20
_MIN_BYTES_PER_SECOND: Final = 1000  # of a whole file: slower than this it would hold up a run for hours
_HTTP: Final = re.compile(r"https?://", re.IGNORECASE)
_LOCAL: Final = re.compile(r"(?:file|local)://(?:localhost)?(?=/)", re.IGNORECASE)
_PROTOCOL: Final = re.compile(r"(?:^|::)([A-Za-z][A-Za-z0-9+.-]+)://")
_STAMPS: Final = (  # what file systems call what changes with a file, the most telling first
    *("ETag", "etag", "e_tag", "blob_id", "sha", "md5Hash", "checksum"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "modify", "modificationTime", "created", "CRC"),
)


class RemoteInfo(NamedTuple):
    """`fingerprint` tells one state of a file from another; `num_bytes` is None where nobody says."""

    kind: Literal["file", "folder"]
    fingerprint: str
    num_bytes: int | None


def as_local_path(url: str) -> str | None:
    """The path that a file:// URL names, percent-decoded; None for any other."""
    match = _LOCAL.match(url)
    return os.fsdecode(unquote_to_bytes(os.fsencode(url[match.end() :]))) if match else None


def is_in_process(url: str) -> bool:
    """Whether other processes don't see what is there."""
    return not _HTTP.match(url) and "memory" in _PROTOCOL.findall(url)


def describe(url: str, transfer: Transfer) -> RemoteInfo:
    """What is there, without its content. Raises an ItemError where nobody says.

    A web server that answers no such questions leaves the answer to the download, and the fingerprint is "url".
    """
    if _HTTP.match(url):
        from omnicap_cli.media.remote import http

        return RemoteInfo("file", *http.head(url, transfer))
    with _own_errors(url):
        system, path = _find_place(url)
        info = system.info(path)
        if info["type"] == "directory":
            return RemoteInfo("folder", "url", None)
        if info["type"] == "other":  # as a FIFO, which would make us wait for ever
            raise AccessError("not a regular file")
        stamp = next((info[name] for name in _STAMPS if info.get(name)), None) or system.ukey(path)
        return RemoteInfo("file", f"url:{stamp}:{info.get('size')}", info.get("size"))


def fetch(url: str, transfer: Transfer) -> bytes:
    """All of a file. Raises TooLargeError if that is more than `max_bytes`, or another ItemError."""
    content = io.BytesIO()
    with _open_url(url, transfer, transfer.max_bytes) as file:
        begun = time.monotonic()
        while piece := file.read1(min(_PIECE_BYTES, transfer.max_bytes + 1 - content.tell())):
            content.write(piece)
            seconds = time.monotonic() - begun
            if seconds > transfer.timeout_seconds and content.tell() < seconds * _MIN_BYTES_PER_SECOND:
                raise DownloadError(f"only {content.tell():,} bytes came in {seconds:.0f} s; {TRY_AGAIN}")
    if content.tell() > transfer.max_bytes:
        raise too_large_error(None, transfer.max_bytes)
    return content.getvalue()


def open_stream(url: str, transfer: Transfer) -> BinaryIO:
    """A file of any size, to be read once from front to back and closed. Raises an ItemError, here or from `read`."""
    return _open_url(url, transfer, None)


def seekable_copy(url: str, transfer: Transfer) -> BinaryIO:
    """A file of any size, copied to where it can be read in any order; it is gone when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115  whoever asks for it closes it
    with open_stream(url, transfer) as file:
        shutil.copyfileobj(file, copy, _PIECE_BYTES)
    copy.seek(0)
    return copy


def list_folder(url: str) -> Iterator[tuple[str, bool]]:
    """The URLs in a folder in the order of their names, each with whether it is a folder. Raises an ItemError."""
    with _own_errors(url):
        system, path = _find_place(url)
        found = system.ls(path, detail=True)
        entries = sorted((entry["name"].rstrip("/"), entry["type"] == "directory") for entry in found)
    del found
    with _forgetting_listing(lambda: system.dircache.pop(path, None)):  # not of the folders above, still in use
        for name, is_folder in entries:
            if name != path.rstrip("/"):  # buckets keep the folder itself as an empty object
                yield _child(url, name.rpartition("/")[2]), is_folder


def glob(url: str) -> Iterator[str]:
    """The URLs that match a pattern, sorted. Raises an ItemError."""
    with _own_errors(url):
        system, path = _find_place(url)
        names = sorted(system.glob(path))
    with _forgetting_listing(system.invalidate_cache):
        for name in names:
            yield _match(url, path, name)


class _GuardedFile(io.RawIOBase):
    """A file of fsspec whose errors are ours. It keeps the file system, which may close the file when it goes."""

    def __init__(self, file: Any, url: str, system: Any) -> None:
        super().__init__()
        self._file = file
        self._url = url
        self._system = system

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        with _own_errors(self._url):
            piece = self._file.read(len(target))
        target[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        super().close()


def _open_url(url: str, transfer: Transfer, max_bytes: int | None) -> io.BufferedReader:
    """A file, refused if it says that it is larger than `max_bytes`."""
    if _HTTP.match(url):
        from omnicap_cli.media.remote import http_body

        return http_body.open_body(url, transfer, max_bytes)
    if as_local_path(url) is not None:
        describe(url, transfer)  # which refuses what is no file
    with _own_errors(url):
        system, path = _find_place(url)
        found = system.open(path, "rb")
        file, size = _GuardedFile(found, url, system), getattr(found, "size", None)
        if max_bytes is not None and isinstance(size, int) and size > max_bytes:
            file.close()
            raise too_large_error(size, max_bytes)
        return io.BufferedReader(file, _PIECE_BYTES)


def _find_place(url: str) -> tuple[Any, str]:
    """A file system of fsspec, and the path in it."""
    import fsspec

    if _HTTP.match(url):  # what is read from one doesn't come here
        raise UnsupportedError("a web server doesn't list its files; name each of them, as in a manifest")
    path = as_local_path(url)
    if path is not None:
        return fsspec.filesystem("file"), path
    if url.lower().startswith(("file://", "local://")):
        raise UnsupportedError("not a file of this machine; a file:// URL names the whole path: file:///folder/file")
    known = {*fsspec.available_protocols(), *fsspec.registry}
    unknown = [protocol for protocol in _PROTOCOL.findall(url) if protocol not in known]
    if unknown:
        raise UnsupportedError(f"{unknown[0]}:// is no protocol that is read here")
    system, path = fsspec.core.url_to_fs(url)
    return system, path


@contextlib.contextmanager
def _own_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (OmnicapError, MemoryError):
        raise
    except Exception as error:  # file systems raise whatever the libraries that they stand on do
        raise error_for_user(error, url) from error


@contextlib.contextmanager
def _forgetting_listing(forget: Callable[[], Any]) -> Iterator[None]:
    """Leave a listing to its file system while it is gone through, so that nobody asks again; then free the memory."""
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            forget()


def _child(url: str, name: str) -> str:
    """The URL of `name` in the folder `url`, spelled as that is."""
    before, link, after = split_chain(url)
    protocol, _, path = link.partition("://")
    folder = path.rstrip("/")
    spelled = quote_from_bytes(os.fsencode(name)) if as_local_path(url) is not None else name
    return f"{before}{protocol}://{folder}{'/' if path else ''}{spelled}{after}"


def _match(url: str, pattern: str, name: str) -> str:
    """The URL of what a pattern matched; `pattern` and `name` are paths in the file system of `url`."""
    if as_local_path(url) is not None:
        return f"file://{quote_from_bytes(os.fsencode(name))}"
    before, link, after = split_chain(url)
    whole = link.removesuffix(pattern) if pattern and link.endswith(pattern) else link[: link.index("://") + 3]
    return f"{before}{whole}{name}{after}"
