"""What the sections of a training configuration check of their values. It knows no section itself."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omnicap_cli.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Checks of the fields of `config`, which errors name `section.field`. None passes where a field may hold it."""

    section: str
    config: Any

    def choices(self) -> None:
        """Each field that is a Literal, or a tuple of them, holds what that allows. Raises OptionError."""
        for name, kind in get_type_hints(type(self.config)).items():
            value = getattr(self.config, name)
            if get_origin(kind) is Literal:
                self._choose(name, value, get_args(kind))
            elif get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal:
                for each in value:
                    self._choose(name, each, get_args(get_args(kind)[0]))

    def at_least(self, low: float, *names: str) -> None:
        """Raises OptionError."""
        self._each(names, lambda value: value >= low, f"is too small; give {low} or more")

    def above_zero(self, *names: str) -> None:
        """Raises OptionError."""
        self._each(names, lambda value: value > 0, "is too small; give more than 0")

    def shares(self, *names: str) -> None:
        """Raises OptionError for what isn't from 0 to 1."""
        self._each(names, lambda value: 0 <= value <= 1, "is no share; give 0 to 1")

    def below_one(self, *names: str) -> None:
        """Raises OptionError for what isn't from 0 to less than 1."""
        self._each(names, lambda value: 0 <= value < 1, "is out of range; give 0 or more, and less than 1")

    def seed(self, name: str) -> None:
        """Raises OptionError for what not every generator of random numbers takes."""
        self._each((name,), lambda value: 0 <= value < 2**32, "is no seed; give 0 to 4,294,967,295")

    def fail(self, name: str, problem: str, *, hint: str | None = None) -> None:
        """Raises OptionError for the value of the field `name`."""
        value = getattr(self.config, name)
        raise OptionError(f"{self.section}.{name}", value, problem, hint=hint)

    def _each(self, names: tuple[str, ...], holds: Callable[[Any], bool], problem: str) -> None:
        for name in names:
            value = getattr(self.config, name)
            if value is not None and not holds(value):
                self.fail(name, problem)

    def _choose(self, name: str, value: Any, allowed: tuple[Any, ...]) -> None:
        if value not in allowed:
            nearest = difflib.get_close_matches(str(value), map(str, allowed), n=1)
            problem = f"is not possible; choose from {', '.join(map(str, allowed))}"
            hint = f"Did you mean {nearest[0]}?" if nearest else None
            raise OptionError(f"{self.section}.{name}", value, problem, hint=hint)
