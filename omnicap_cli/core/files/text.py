"""Text that any UTF-8 file can hold. Names from the system may hold lone surrogates, which none can."""

from __future__ import annotations

from typing import Any


def without_surrogates(value: Any) -> Any:
    """`value`, a tree of dicts, lists and scalars, with every lone surrogate in a string escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_surrogates(inner) for inner in value]
    return value
