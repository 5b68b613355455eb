"""The bytes of a file on a web server, through connections that break. It knows nothing of what they mean.

A file whose own name says that it is compressed (`x.tar.gz`, `rows.jsonl.gz`) comes as it is named: where a server
calls that its Content-Encoding, it means the file's own, and it is left on.
"""

from __future__ import annotations

import http.client
import io
import re
import zlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import requests

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import DecodeError, DownloadError
from omnicap_cli.media.remote.failures import TRY_AGAIN, error_layers, root_reason, too_large_error, without_secrets
from omnicap_cli.media.remote.http import BROKEN_BODY, Attempts, PassingError, declared_bytes, encoding_of, refuse, send

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES: Final = 65_536
_COMPRESSED_SUFFIXES: Final = (".gz", ".tgz", ".svgz")
_ENCODINGS: Final = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32  # told apart by their headers
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)$")
_CHANGED: Final = f"the file changed while it was read; {TRY_AGAIN}"


def open_body(url: str, transfer: Transfer, max_bytes: int | None = None) -> io.BufferedReader:
    """A file from its first byte on. Raises an ItemError, here or from `read`.

    With `max_bytes` a file that declares more is refused, and all of it gets `num_retries`; without, each stretch that
    brings nothing gets so many.
    """
    body = _ResumingBody(url, transfer, patient=max_bytes is None)
    if max_bytes is not None and body.num_bytes is not None and body.num_bytes > max_bytes:
        body.close()
        raise too_large_error(body.num_bytes, max_bytes)
    if not body.encoding or urlsplit(url).path.lower().endswith(_COMPRESSED_SUFFIXES):
        return io.BufferedReader(body, _PIECE_BYTES)
    if body.encoding not in _ENCODINGS:
        body.close()
        raise DownloadError(f"sent in the encoding {without_secrets(body.encoding)}, which was not asked for")
    return io.BufferedReader(_DecompressedBody(body), _PIECE_BYTES)


class _PieceReader(io.RawIOBase):
    """What a BufferedReader reads from; a subclass says what the next piece is."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        piece = self._piece(len(target))
        target[: len(piece)] = piece
        return len(piece)

    @abstractmethod
    def _piece(self, num_bytes: int) -> bytes:
        """At least one and at most `num_bytes`, which is at least one; none at the end."""


class _ResumingBody(_PieceReader):
    """The bytes as they are sent. `num_bytes` is how many the server declares, `encoding` what it wrapped them in.

    After a break it asks for the rest, or reads once more what it has where the server only sends all. It never puts
    two states of a file together, as far as the server tells them apart.
    """

    def __init__(self, url: str, transfer: Transfer, *, patient: bool) -> None:
        super().__init__()
        self._url = url
        self._transfer = transfer
        self._patient = patient
        self._attempts = Attempts(transfer)
        self._headers: Mapping[str, str] = {}  # of the first response
        self._offset = 0  # in the file, of the next byte that comes
        self.position = 0  # of the next byte to hand on
        self.num_bytes: int | None = None
        self._response: requests.Response | None = None
        first = self._attempts.persist(self._connect)
        self._headers, self.num_bytes, self.encoding = first.headers, declared_bytes(first), encoding_of(first)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _piece(self, num_bytes: int) -> bytes:
        piece = self._attempts.persist(lambda: self._next_piece(num_bytes))
        if piece and self._patient:
            self._attempts.renew()
        return piece

    def _next_piece(self, num_bytes: int) -> bytes:
        response = self._response or self._connect()
        piece = self._read(response, num_bytes)
        while piece and self._offset <= self.position:  # what came before the break
            piece = self._read(response, num_bytes)
        if self._offset < self.position:
            raise DownloadError(_CHANGED)
        piece = piece[len(piece) - (self._offset - self.position) :]
        self.position = self._offset
        return piece

    def _read(self, response: requests.Response, num_bytes: int) -> bytes:
        try:
            piece: bytes = response.raw.read1(num_bytes, decode_content=False)
        except BROKEN_BODY as error:
            raise self._broken(error) from error
        self._offset += len(piece)
        if not piece and self.num_bytes is not None and self._offset < self.num_bytes:  # of the rest it sent a part
            raise self._broken(None)
        return piece

    def _connect(self) -> requests.Response:
        """Ask for the file, or after a break for the rest of it; the answer may begin before that."""
        response = send("GET", self._url, self._transfer, self._resuming_headers())
        is_part = response.status_code == http.HTTPStatus.PARTIAL_CONTENT
        if response.status_code // 100 != 2 or (is_part and not self.position):
            refuse(response)
        begin, total = _extent_of(response) if is_part else (0, declared_bytes(response))
        if begin > self.position or not self._is_same(response, total):
            response.close()
            raise DownloadError(_CHANGED)
        self._response, self._offset = response, begin
        return response

    def _resuming_headers(self) -> dict[str, str]:
        """RFC 9110, 13.1.5 and 14.2: the rest, unless the file has changed. A weak ETag can't promise that."""
        if not self.position:
            return {}
        etag = self._headers.get("ETag", "")
        state = etag if etag.startswith('"') else self._headers.get("Last-Modified")
        return {"Range": f"bytes={self.position}-"} | ({"If-Range": state} if state else {})

    def _is_same(self, response: requests.Response, total: int | None) -> bool:
        """Whether a response of `total` bytes in all is of the same file as the first one."""
        if not self._headers:
            return True
        if None not in (total, self.num_bytes) and total != self.num_bytes:
            return False
        if encoding_of(response) != self.encoding:
            return False
        told = ((self._headers.get(name), response.headers.get(name)) for name in ("ETag", "Last-Modified"))
        return next((before == now for before, now in told if before and now), True)

    def _broken(self, error: Exception | None) -> PassingError:
        self._hang_up()
        whole = "" if self.num_bytes is None else f" of {self.num_bytes:,}"
        by_system = error is not None and any(isinstance(layer, OSError) for layer in error_layers(error))
        why = f": {root_reason(error)}" if error is not None and by_system else ""
        return PassingError(f"broke off after {self.position:,}{whole} bytes{why}")

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


class _DecompressedBody(_PieceReader):
    """A body without the encoding that the server wrapped it in. Raises DecodeError where that is broken."""

    def __init__(self, body: _ResumingBody) -> None:
        super().__init__()
        self._body = body
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._rest = b""

    def close(self) -> None:
        self._body.close()
        super().close()

    def _piece(self, num_bytes: int) -> bytes:
        """Never more than asked for, however well it was compressed."""
        while True:
            self._rest = self._rest or self._body.read(_PIECE_BYTES) or b""
            is_end = not self._rest
            if self._decoder.eof and not is_end:
                self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)  # gzip may have several members
            try:
                piece = self._decoder.decompress(self._rest, num_bytes)
            except zlib.error as error:
                raise DecodeError(f"damaged in its {self._body.encoding} encoding: {error}") from error
            self._rest = self._decoder.unconsumed_tail or self._decoder.unused_data
            if piece:
                return piece
            if is_end:
                if self._body.position and not self._decoder.eof:
                    raise DecodeError(f"cut off in its {self._body.encoding} encoding")
                return b""


def _extent_of(response: requests.Response) -> tuple[int, int | None]:
    """Where the body of a 206 answer begins in its file, and how long that is (RFC 9110, 14.4)."""
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    if match is None:
        response.close()
        raise DownloadError("asked for a part of the file, the server sent something else")
    return int(match[1]), (None if match[2] == "*" else int(match[2]))
