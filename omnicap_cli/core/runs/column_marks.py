"""A prompt's `{column}` marks, filled from the columns of an item. It knows no manifest.

Not `str.format`: that would let a prompt reach into Python objects, and trip over the braces of LaTeX and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from omnicap_cli.errors import ManifestError

_MARK: Final = re.compile(r"\{\{|\}\}|\{([^\W\d][\w .:-]*)\}")
_MAX_LISTED: Final = 12


def has_columns(text: str) -> bool:
    """Whether `text` asks for a column, or has doubled braces to be halved."""
    return _MARK.search(text) is not None


def fill_columns(text: str, columns: Mapping[str, Any]) -> str:
    """`text` with each `{name}` replaced by that column, `{{` and `}}` by single braces; other braces stay.

    None is empty. Raises ManifestError where there is no such column.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if name not in columns:
            there = ", ".join(list(columns)[:_MAX_LISTED]) or "none"
            raise ManifestError(
                f"the prompt asks for the column {name!r}, and the item has {there} (a brace is written twice)"
            )
        return "" if columns[name] is None else str(columns[name])

    return _MARK.sub(value_of, text)
