"""How files are named in records: text that any JSON reader takes, and that leads back to the file."""

from __future__ import annotations

import os
import re
import unicodedata
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

_DOT_STEPS: Final = re.compile(r"(?<=/)(?:\./+)+|(?<=/)/+")


def shown_path(path: str) -> str:
    """`path` as an id: without `./` and doubled slashes; a name that isn't UTF-8 is percent-encoded.

    In a percent-encoded name every `%` is encoded too, so `path_of_shown` finds the bytes again.
    """
    path = plain_path(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(path), safe=_SAFE)
    return path


def plain_path(path: str) -> str:
    """`path` without `./` and doubled slashes, with `/` between folders. Two spellings of one path become one."""
    if "://" in path:
        return path
    path = _DOT_STEPS.sub("", path)
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path.replace(os.sep, "/") if os.sep != "/" else path


def path_of_shown(shown: str) -> str:
    """The path that `shown_path` percent-encoded."""
    return os.fsdecode(unquote_to_bytes(shown))


def printable(text: str) -> str:
    """`text` for one line of a terminal: control characters, line breaks and lone surrogates escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character)[0] == "C" else character
        for character in text
    )


_SAFE: Final = bytes(range(0x20, 0x7F)).replace(b"%", b"")
