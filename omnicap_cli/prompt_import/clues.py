"""What runs through a script share: the names that select a prompt, and how much following is too much."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from omnicap_cli.errors import OmnicapError

MAX_STEPS: Final = 2_000_000
MAX_CALLS_DEEP: Final = 12


class Met(enum.IntEnum):
    """What a function does with the key that a run is about: nothing, take it for another one, or know it."""

    NOT = 0
    ASKED = 1
    HIT = 2


class Event(NamedTuple):
    """A text found in a role: `value` is the text or Unknown. A lower `rank` is nearer to what a model is sent."""

    role: str
    rank: int
    value: Any
    met: Met = Met.HIT


@dataclass(slots=True)
class Clues:
    """`selectors` holds, by the name of a variable, the texts that it is compared with or looks up.

    `keys` are those of dicts, and texts that something is compared with; `lines` says where a text stands first;
    `draws`, by line, is the first of the texts that one is drawn from at random. `num_spoiled` counts what a function
    changes that isn't its own.
    """

    selectors: dict[str, set[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    draws: dict[int, str] = field(default_factory=dict)
    num_spoiled: int = 0
    num_steps: int = 0

    def note(self, name: str, keys: list[Any], line: int) -> None:
        """`name` selects by each text among `keys`."""
        texts = [key for key in keys if isinstance(key, str)]
        if name and texts:
            self.selectors.setdefault(name, set()).update(texts)
        for text in texts:
            self.lines.setdefault(text, line)

    def count_step(self) -> None:
        """Raises OmnicapError where a script is endless, or as good as."""
        self.num_steps += 1
        if self.num_steps > MAX_STEPS:
            raise OmnicapError(
                "the script takes too long to follow", hint="Give it the part that holds the prompts, in a file alone."
            )
