"""The types of values in a training configuration, checked by msgspec, and what is said where a value has another.

It knows no section and no key: places are given by whoever reads.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from omnicap_cli.errors import OptionError, UsageError

# the sentence of each type is for a value beyond its limits
Text = Annotated[str, Meta(pattern=r"\S", description="is empty")]
Count = Annotated[int, Meta(ge=1, description="is too small; give 1 or more")]
CountOrZero = Annotated[int, Meta(ge=0, description="is too small; give 0 or more")]
Seed = Annotated[int, Meta(ge=0, lt=2**32, description="is no seed; give 0 to 4,294,967,295")]
Positive = Annotated[float, Meta(gt=0, description="is too small; give more than 0")]
PositiveOrZero = Annotated[float, Meta(ge=0, description="is too small; give 0 or more")]
Share = Annotated[float, Meta(ge=0, le=1, description="is no share; give 0 to 1")]
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1, description="is out of range; give 0 or more, and less than 1")]

_WRONG_TYPES: Final = {
    bool: "is neither true nor false",
    int: "is no whole number",
    float: "is no number",
    str: "is no text; if it is meant as one, put it in quotes",
}


def read_typed(value: Any, kind: Any, place: str) -> Any:
    """`value`, which stands at `place`, as a `kind`. Raises OptionError with the dotted place of what is wrong."""
    try:
        return msgspec.convert(value, kind, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        message, _, inside = str(error).partition(" - at `$")
        inside = inside.removesuffix("`")
        for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", inside):
            value = value[key or int(index)]
            kind = get_type_hints(bare_type(kind), include_extras=True)[key] if key else get_args(bare_type(kind))[0]
        if "missing required field" in message:
            raise UsageError(f"{place}{inside}.{message.split('`')[1]} is missing") from error
        problem, hint = _why_refused(value, bare_type(kind), is_of_type=", got `" not in message)
        raise OptionError(f"{place}{inside}", value, problem, hint=hint) from error


def check_fields(config: Any, place: str) -> None:
    """Raise OptionError for a field of a dataclass that holds what its type doesn't allow, wherever it was made."""
    hints = get_type_hints(type(config), include_extras=True)
    for each in fields(config):
        read_typed(getattr(config, each.name), hints[each.name], f"{place}.{each.name}")


class Section:
    """What a dataclass NAMEConfig inherits to be the section `name`: its fields hold what their types allow."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_fields(self, type(self).__name__.removesuffix("Config").lower())


def bare_type(kind: Any) -> Any:
    """A type without the None that it may allow too."""
    return next(each for each in get_args(kind) if each is not NoneType) if NoneType in get_args(kind) else kind


def _read_path(_: type, value: Any) -> Path:
    """No shell has seen what is in a file: a leading ~ still stands for the home folder."""
    try:
        return value if isinstance(value, Path) else Path(os.path.expanduser(msgspec.convert(value, Text)))
    except msgspec.ValidationError as error:
        raise ValueError(error) from error  # to which msgspec adds the place


def _why_refused(value: Any, kind: Any, *, is_of_type: bool) -> tuple[str, str | None]:
    """Why a value can't be used, and a hint where there is one."""
    if get_origin(kind) is Literal:
        choices = [str(each) for each in get_args(kind)]
        nearest = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else None
        return f"is not possible; choose from {', '.join(choices)}", hint
    constrained: Any = Text if kind is Path else kind
    if is_of_type and get_origin(constrained) is Annotated:
        return constrained.__metadata__[0].description, None
    return _WRONG_TYPES[getattr(constrained, "__origin__", constrained)], None
