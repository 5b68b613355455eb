"""Requests to web servers: redirects, statuses, and when to try again. It knows nothing of what a body holds.

What `requests` would do by itself is done here where a server could abuse it: it reads the body of a redirect whole,
and follows one to any protocol that it has an adapter for.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, NoReturn, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3

from omnicap_cli import __version__
from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import AccessError, DownloadError, NotFoundError
from omnicap_cli.media.remote.failures import TRY_AGAIN, error_layers, root_reason, without_secrets

BACKOFF_SECONDS: Final = 0.5  # before the second attempt; twice as long before each one after that
MAX_WAIT_SECONDS: Final = 60.0
BROKEN_BODY: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
_MAX_REDIRECTS: Final = 10
_PASSING: Final = frozenset((429, 500, 502, 503, 504))  # statuses that another attempt may not meet
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_SHORT_BYTES: Final = 65_536  # a body that is read to its end, so that its connection can be used again
_BAD_PROXY: Final = (
    requests.exceptions.InvalidProxyURL,
    requests.exceptions.InvalidSchema,
    urllib3.exceptions.ProxySchemeUnknown,
)
_BAD_PROXY_TEXT: Final = "the proxy that the environment names (http_proxy, https_proxy) can't be used"
_HEADERS: Final = {"User-Agent": f"omnicap/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
T = TypeVar("T")
_spread = random.Random()


class PassingError(Exception):
    """What another attempt may mend. `retry_after` is the server's header of that name."""

    def __init__(self, message: str, *, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Attempts:
    """How often one transfer is tried again, and how long it waits before that."""

    def __init__(self, transfer: Transfer) -> None:
        self._num_allowed = transfer.num_retries
        self._num_used = 0

    def renew(self) -> None:
        """Count anew: there was progress."""
        self._num_used = 0

    def persist(self, action: Callable[[], T]) -> T:
        """What `action` returns, in spite of Trouble. Raises DownloadError once no attempt is left."""
        while True:
            try:
                return action()
            except PassingError as trouble:
                self._wait(trouble)

    def _wait(self, trouble: PassingError) -> None:
        if self._num_used >= self._num_allowed:
            times = f" (in {self._num_used + 1} attempts)" if self._num_used else ""
            raise DownloadError(f"{trouble}{times}; {TRY_AGAIN}") from trouble
        seconds = _asked_seconds(trouble)
        if seconds is None:  # spread, so that threads which met the same trouble don't come back all at once
            seconds = BACKOFF_SECONDS * 2.0 ** min(self._num_used, 20) * _spread.uniform(0.75, 1.25)
        time.sleep(min(seconds, MAX_WAIT_SECONDS))
        self._num_used += 1


def head(url: str, transfer: Transfer) -> tuple[str, int | None]:
    """A fingerprint and the size in bytes of a file that isn't sent; "url" and None where the server doesn't tell.

    Then the later GET decides. Raises DownloadError where the server can't be reached or fails.
    """
    return Attempts(transfer).persist(lambda: _head(url, transfer))


def send(
    method: Literal["GET", "HEAD"], url: str, transfer: Transfer, headers: Mapping[str, str] | None = None
) -> requests.Response:
    """What the last server in a chain of redirects answers, whatever its status; its body is not read yet.

    Raises Trouble where it is worth another attempt, or DownloadError.
    """
    session = _thread.session
    session.cookies.clear()  # they live for one chain, so that no item depends on those before it
    _check_url(url)
    for _ in range(_MAX_REDIRECTS + 1):
        response = _request_once(session, method, url, transfer, headers)
        location = session.location(response)
        if location is None:
            return response
        dismiss(response)
        url = _redirect_target(url, location)
    raise DownloadError(f"redirected more than {_MAX_REDIRECTS} times")


def dismiss(response: requests.Response) -> None:
    """Close a response; if little of it is left, its connection stays open for the next request."""
    length = declared_bytes(response)
    if response.request.method == "HEAD" or (length is not None and length <= _SHORT_BYTES):
        with contextlib.suppress(*BROKEN_BODY):
            response.raw.read(_SHORT_BYTES, decode_content=False)
    response.close()


def declared_bytes(response: requests.Response) -> int | None:
    """The length of the body as it is sent, if the server says."""
    length = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
    return int(length[0]) if length and "Transfer-Encoding" not in response.headers else None


def encoding_of(response: requests.Response) -> str:
    """What a server wrapped around the file, though nobody asked for it; "" if nothing."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def refuse(response: requests.Response) -> NoReturn:
    """Raise what an answer other than the file means: Trouble, or an ItemError."""
    status = response.status_code
    said = f"HTTP {status} {http.client.responses.get(status, '')}".rstrip()
    dismiss(response)
    if status in _PASSING:
        raise PassingError(said, retry_after=response.headers.get("Retry-After"))
    if status in (404, 410):
        raise NotFoundError(said)
    if status in (401, 403):
        raise AccessError(f"{said}: a user name and a password can stand in ~/.netrc")
    raise DownloadError(said)


class _Session(requests.Session):
    """One connection pool, which never follows a redirect by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.clear()
        self.headers.update(_HEADERS)

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  as it is named there
        return None

    def location(self, response: requests.Response) -> str | None:
        """Where a response redirects to, as the server spells it."""
        try:
            return super().get_redirect_target(response)
        except UnicodeDecodeError as error:
            dismiss(response)
            raise DownloadError("redirected to an address that is not UTF-8") from error


class _Thread(threading.local):
    """A session is for one thread."""

    def __init__(self) -> None:
        self.session = _Session()


_thread = _Thread()


def _request_once(
    session: _Session, method: str, url: str, transfer: Transfer, headers: Mapping[str, str] | None
) -> requests.Response:
    seconds = transfer.timeout_seconds
    try:
        return session.request(
            method, url, headers=headers, stream=True, allow_redirects=False, timeout=(seconds, seconds)
        )
    except requests.Timeout as error:
        raise PassingError(f"no answer from {_host(url)} within {seconds:g} s") from error
    except requests.ConnectionError as error:
        if any(isinstance(layer, ssl.SSLCertVerificationError) for layer in error_layers(error)):
            remedy = "REQUESTS_CA_BUNDLE can name a file of those to trust"
            raise DownloadError(f"{_host(url)} is not trusted: {root_reason(error)}; {remedy}") from error
        raise PassingError(f"can't reach {_host(url)}: {root_reason(error)}") from error
    except ValueError as error:  # its text holds the URL in ways that no pattern finds
        of_proxy = any(isinstance(layer, _BAD_PROXY) for layer in error_layers(error))
        raise DownloadError(_BAD_PROXY_TEXT if of_proxy else "not a valid URL") from error
    except (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        raise DownloadError(f"can't ask {_host(url)}: {root_reason(error)}") from error


def _check_url(url: str) -> SplitResult:
    """Raise DownloadError for what libraries would take for a URL in different ways, or not at all."""
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in url):
        raise DownloadError("not a valid URL: there are control characters in it")
    try:
        url.encode()
        parts = urlsplit(url)
        _ = parts.port
    except UnicodeEncodeError as error:
        raise DownloadError("not a valid URL: bytes that are not UTF-8 have to be percent-encoded") from error
    except ValueError as error:
        raise DownloadError("not a valid URL") from error
    if not parts.hostname or any(character.isspace() or character == "\\" for character in parts.netloc):
        raise DownloadError("not a valid URL: it names no host")
    return parts


def _redirect_target(url: str, location: str) -> str:
    """The URL that a redirect leads to. Credentials go along on the same server only, or to its encrypted side."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise DownloadError("redirected to what is not a valid URL") from error
    if scheme not in ("http", "https"):
        raise DownloadError(f"redirected to {without_secrets(target)}: only http and https are followed")
    here, there = _check_url(url), _check_url(target)
    user, at, _ = here.netloc.rpartition("@")
    is_other = _thread.session.should_strip_auth(url, target)  # type: ignore[no-untyped-call]
    if "@" in there.netloc or is_other:
        return target
    return there._replace(netloc=f"{user}{at}{there.netloc}").geturl()


def _asked_seconds(trouble: PassingError) -> float | None:
    """What a Retry-After header asks for, if it makes sense."""
    if trouble.retry_after is None:
        return None
    try:
        return urllib3.Retry().parse_retry_after(trouble.retry_after)
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return None


def _host(url: str) -> str:
    return without_secrets(urlsplit(url).hostname or "")


def _head(url: str, transfer: Transfer) -> tuple[str, int | None]:
    response = send("HEAD", url, transfer)
    status = response.status_code
    if status in _PASSING or status > http.HTTPStatus.NOT_IMPLEMENTED:
        refuse(response)
    dismiss(response)
    if status != http.HTTPStatus.OK:
        return "url", None
    num_bytes = declared_bytes(response)
    size = "" if num_bytes is None else num_bytes
    stamp = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return f"url:{stamp}:{size}" if stamp else "url", None if encoding_of(response) else num_bytes
