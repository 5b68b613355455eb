"""What networks, and the libraries that read from them, say when they fail, in words for a record. It fetches nothing.

A user name or password in a URL, or the signature in its query, never gets into a message.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Final

from omnicap_cli.core.files.words import one_line, printable
from omnicap_cli.errors import AccessError, DecodeError, DownloadError, NotFoundError, OmnicapError, TooLargeError

TRY_AGAIN: Final = "try again with --retry-failed"
_MAX_LAYERS: Final = 10
_USER: Final = re.compile(r"(?<=://)[^/\s]*@")
_QUERY: Final = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\")]*")
_OF_OPENSSL: Final = re.compile(r"^\[SSL: \w+\] | \(_ssl\.c:\d+\)$")
_DAMAGED: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
_PACKAGES: Final = {"smbclient": "smbprotocol", "libarchive": "libarchive-c"}  # where the module has another name


def without_secrets(text: str) -> str:
    """`text` as one line without control characters and secrets of URLs, cut where it is very long."""
    return printable(one_line(_QUERY.sub(r"\1", _USER.sub("", text))))


def root_reason(error: BaseException) -> str:
    """What is at the bottom of `error`: libraries wrap what the system says in their own names and addresses."""
    found = list(error_layers(error))
    said = next((layer.strerror for layer in found if isinstance(layer, OSError) and layer.strerror), None)
    return without_secrets(_OF_OPENSSL.sub("", said or str(found[-1]) or type(found[-1]).__name__))


def error_layers(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it wraps, outermost first."""
    layer: BaseException | None = error
    for _ in range(_MAX_LAYERS):
        if layer is None:
            return
        yield layer
        inner = (getattr(layer, "reason", None), *layer.args, layer.__cause__)
        layer = next((each for each in inner if isinstance(each, BaseException)), None)


def error_for_user(error: Exception, url: str) -> OmnicapError:
    """What stands for an exception of a file system that isn't ours: an ItemError, unless a package is missing."""
    if isinstance(error, ImportError):
        return _missing_package(error, url)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFoundError("no such file")
    if isinstance(error, IsADirectoryError):
        return AccessError("a folder, where a file was expected")
    if isinstance(error, PermissionError):
        return AccessError("no permission to read it")
    if isinstance(error, _DAMAGED):
        return DecodeError(f"damaged: {root_reason(error)}")
    return DownloadError(f"can't be read: {root_reason(error)}")


def too_large_error(num_bytes: int | None, max_bytes: int) -> TooLargeError:
    """`num_bytes` is None where nobody knows how many more would have come."""
    what = "it has more bytes" if num_bytes is None else f"{num_bytes:,} bytes are more"
    remedy = "if it is meant to be that large, raise --max-file-bytes and pass --retry-failed"
    return TooLargeError(f"{what} than the limit of {max_bytes:,}; {remedy}")


def _missing_package(error: ImportError, url: str) -> OmnicapError:
    cause = error if error.name else error.__cause__
    module = cause.name if isinstance(cause, ModuleNotFoundError) else None
    if not module:
        return OmnicapError(f"can't read {without_secrets(url)}: {root_reason(error)}")
    top = module.partition(".")[0]
    package = _PACKAGES.get(top, top.replace("_", "-"))
    return OmnicapError(
        f"{without_secrets(url)} needs the package {package}", hint=f"Install it: pip install {package}"
    )
