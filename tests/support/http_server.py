"""A real web server on loopback that misbehaves as a test tells it, path by path. It knows nothing of its clients."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

PATIENCE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a path answers once.

    `declared` is the Content-Length: that of the body unless given, None for no such header (the connection closes at
    the end, or the body is `chunked`). After `stop_after` bytes of a longer body the connection closes, with `reset`
    rudely; after `stall_after` bytes nothing more comes. `is_silent` doesn't even answer. With `ranges` parts are sent
    on request, and If-Range is heeded; `range_shift` sends another part than was asked for, `range_bytes` only so much.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    declared: int | None = -1
    chunked: bool = False
    stop_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    is_silent: bool = False
    ranges: bool = False
    range_shift: int = 0
    range_bytes: int | None = None


class Seen(NamedTuple):
    """A request as it came. `connection` counts the connections of the server."""

    method: str
    path: str
    headers: Mapping[str, str]
    connection: int

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


class HttpServer:
    """A server in a thread. `serve` says what a path (as it is sent, with its query) answers; others are 404."""

    def __init__(self, certificate: Path | None = None) -> None:
        self._scripts: dict[tuple[str, str], list[Answer]] = {}
        self._lock = threading.Lock()
        self.seen: list[Seen] = []
        self.num_connections = 0
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def url(self, path: str, user: str = "") -> str:
        """The URL of `path`, which begins with a slash; `user` is a name, or a name and a password."""
        return f"{self._scheme}://{user}{'@' if user else ''}127.0.0.1:{self.port}{path}"

    def serve(self, path: str, *answers: Answer, head: Answer | None = None) -> str:
        """Answer in this order, the last one for ever; HEAD takes part in that unless it has an answer of its own."""
        self._scripts[("GET", path)] = list(answers)
        self._scripts[("HEAD", path)] = self._scripts[("GET", path)] if head is None else [head]
        return self.url(path)

    def redirect(self, path: str, location: str, status: int = 302) -> str:
        return self.serve(path, Answer(status=status, headers={"Location": location}))

    def requests(self, path: str | None = None) -> list[Seen]:
        """The requests so far, all of them or those for `path`."""
        with self._lock:
            return [seen for seen in self.seen if path in (None, seen.path)]

    def close(self) -> None:
        """Hang up on everyone."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, handler: _Handler) -> Answer:
        """Log a request, and choose its answer."""
        with self._lock:
            self.seen.append(Seen(handler.command, handler.path, dict(handler.headers), handler.connection_number))
            script = self._scripts.get((handler.command, handler.path), [Answer(status=404, body=b"not here")])
            return script.pop(0) if len(script) > 1 else script[0]

    def count_connection(self) -> int:
        with self._lock:
            self.num_connections += 1
            return self.num_connections


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: HttpServer

    def handle_error(self, request, client_address):
        """Clients that hang up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    connection_number = 0

    def setup(self):
        super().setup()
        self.connection_number = self.server.owner.count_connection()

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        answer = self.server.owner.take(self)
        if answer.is_silent:
            self._stall()
            return
        status, headers, body = _shaped(answer, self.headers)
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        if answer.declared is None and not answer.chunked:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer, body)

    do_HEAD = do_GET

    def _send_body(self, answer: Answer, body: bytes) -> None:
        end = next((at for at in (answer.stop_after, answer.stall_after) if at is not None), None)
        part = body[:end]
        if answer.chunked:
            self.wfile.writelines(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(part))
            if len(part) == len(body):
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(part)
        if answer.stall_after is not None:
            self._stall()
        elif len(part) < len(body):
            self.close_connection = True
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _stall(self) -> None:
        self.close_connection = True
        self.server.owner.closing.wait(PATIENCE_SECONDS)


def _shaped(answer: Answer, asked: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, whole or the part that was asked for."""
    status, headers, body = answer.status, dict(answer.headers), answer.body
    state = asked.get("If-Range")
    is_current = state is None or state in (headers.get("ETag"), headers.get("Last-Modified"))
    if answer.ranges and asked.get("Range") and is_current:
        begin = int(asked["Range"].removeprefix("bytes=").removesuffix("-")) + answer.range_shift
        status, body = 206, body[begin:][: answer.range_bytes]
        headers["Content-Range"] = f"bytes {begin}-{begin + len(body) - 1}/{len(answer.body)}"
    if answer.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif answer.declared is not None:
        headers["Content-Length"] = str(len(body) if answer.declared == -1 else answer.declared)
    return status, headers, body


def _pieces(body: bytes, size: int = 1000) -> Iterator[bytes]:
    return (body[begin : begin + size] for begin in range(0, len(body), size))


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[HttpServer]:
    """A server while the block lasts; with a `certificate` (its key in the same file) over TLS."""
    server = HttpServer(certificate)
    try:
        yield server
    finally:
        server.close()
