"""What is certain of a text, of all that was found for it. It knows no script."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from omnicap_cli.prompt_import.clues import Event, Met
from omnicap_cli.prompt_import.values import Value

DIFFERING: Final = object()  # in place of a text that isn't the same on every way


class Target(NamedTuple):
    """A key, under a type and a language where the script tells them apart by more than the key."""

    key: str
    type: str | None = None
    lang: str | None = None

    def covers(self, other: Target) -> bool:
        """Whether what is told for this is told for `other` too."""
        pairs = ((self.type, other.type), (self.lang, other.lang))
        return self.key == other.key and all(mine is None or mine == its for mine, its in pairs)


def verdict(events: Iterable[Event], role: str) -> Value:
    """The text of a role, Unknown, DIFFERING, or None where nothing is found.

    Only what comes nearest to the model counts, and never what a function leaves to its caller. A function that knows
    the key counts more than one that takes it for any other, unless that one is nearer to the model.
    """
    ours = [event for event in events if event.role == role and not getattr(event.value, "is_parameter", False)]
    knowing = [event for event in ours if event.met is Met.HIT] or ours
    nearest = min((event.rank for event in knowing), default=0)
    values = [event.value for event in knowing if event.rank == nearest]
    values += [event.value for event in ours if event.rank < nearest]
    unknown = next((value for value in values if not isinstance(value, str)), None)
    if unknown is not None:
        return unknown
    texts = {str(value) for value in values}
    return DIFFERING if len(texts) > 1 else next(iter(texts), None)
