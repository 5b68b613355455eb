"""Words for people: lists, sizes, times, and texts made short enough for a line. It knows no terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, Final

_MAX_LISTED: Final = 10
_MAX_CHARACTERS: Final = 300
_UNITS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def listed(words: Iterable[str], *, max_shown: int = _MAX_LISTED) -> str:
    """Words as a person lists them: a, b and c. Beyond `max_shown`, how many more there are."""
    shown = list(words)
    if len(shown) > max_shown:
        shown = [*shown[:max_shown], f"{len(shown) - max_shown:,} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def shortened(text: str, max_characters: int = _MAX_CHARACTERS) -> str:
    """`text`, cut with an ellipsis where it has more than `max_characters`."""
    return text if len(text) <= max_characters else f"{text[:max_characters]}…"


def one_line(text: object, max_characters: int = _MAX_CHARACTERS) -> str:
    """A text, or what an error says, as one line that is not too long."""
    return shortened(" ".join(str(text).split()), max_characters)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def with_class_name(error: BaseException) -> str:
    """What an error of a library says, after the name of its class."""
    return f"{type(error).__name__}: {shortened(str(error).strip())}"


def without_remedy(message: str) -> str:
    """What happened alone: the options that a message may end in are those of other commands."""
    what, _, remedy = message.rpartition("; ")
    return what if "--" in remedy else message


def printable(text: str) -> str:
    """`text` for one line of a terminal: control characters, line breaks and lone surrogates escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character)[0] == "C" else character
        for character in text
    )


def without_surrogates(value: Any) -> Any:
    """`value`, a tree of dicts, lists and scalars, with every lone surrogate in a string escaped.

    Names from the system may hold some, which no UTF-8 file can.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_surrogates(inner) for inner in value]
    return value


def gigabytes(num_bytes: int) -> str:
    """As people say it: `16.6 GB`, and MB below one."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """`seconds` as a person says it: 42 s, 3 min 20 s, 5 h 12 min, 3 d 4 h."""
    seconds = max(0, round(seconds))
    for size, unit, small_size, small_unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // small_size} {small_unit}"
    return f"{seconds} s"
