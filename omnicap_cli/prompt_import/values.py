"""What is known of a value while a script is followed. It knows no syntax.

Texts, numbers, None and tuples stand for themselves; everything else is one of the classes here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = Any
Env: TypeAlias = "dict[str, Value]"


class Seed(str):
    """The style key that a run is about: what it meets on its way is what the script has for that key."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that only a run of the script would tell, since `line`; `name` is where the script keeps it.

    `is_parameter` marks what the caller of a function decides: another way through the script may know it.
    """

    line: int
    name: str = ""
    is_parameter: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """What comes from another module, or is built into Python, by its dotted name."""

    name: str
    line: int


@dataclass(frozen=True, eq=False, slots=True)
class Scope:
    """A stretch of the script that is gone through once, or not at all: `is_module` outside of every function."""

    is_module: bool


@dataclass(eq=False, slots=True)
class Table:
    """A dict. `rest` stands for every key that isn't known; `scope` is where it was made and may be changed."""

    items: dict[Any, Value]
    scope: Scope
    rest: Unknown | None = None


@dataclass(eq=False, slots=True)
class Listing:
    """A list or set; with `rest` it may hold anything."""

    items: list[Value]
    scope: Scope
    rest: Unknown | None = None


@dataclass(eq=False, slots=True)
class Frame:
    """The names of a module, class or function that is followed, and how it was left."""

    env: Env
    parent: Frame | None = None
    is_class: bool = False
    line: int = 1
    globals: set[str] = field(default_factory=set)
    left: list[tuple[Value, Env]] = field(default_factory=list)  # by `return`, with what it gives
    continued: list[Env] = field(default_factory=list)
    broken: list[Env] = field(default_factory=list)
    raised: list[Env] = field(default_factory=list)  # on ways beside which others go on
    is_generator: bool = False
    is_tried: bool = False

    def may_raise(self, env: Env) -> None:
        """Take note that the way may end here with these names. Outside of `try` it doesn't matter with which."""
        if self.is_tried or not self.raised:
            self.raised.append(env)


@dataclass(frozen=True, eq=False, slots=True)
class Function:
    """A function of the script, or with `owner` a method bound to an object."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    frame: Frame
    owner: Instance | Class | None = None  # of a method


@dataclass(frozen=True, eq=False, slots=True)
class Class:
    """A class of the script; `fields` are its annotated names in order, which a dataclass takes as arguments."""

    name: str
    attributes: Table
    fields: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Instance:
    """An object of a class of the script."""

    kind: Class
    attributes: Table


def truth(value: Value) -> bool | None:
    """Whether a value counts as true; None where only a run would tell."""
    if isinstance(value, Unknown | Imported):
        return None
    if isinstance(value, Table | Listing):
        return True if value.items else None if value.rest else False
    return bool(value)


def equal(one: Value, other: Value) -> bool | None:
    """Whether two values are equal; None where only a run would tell."""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        parts = [equal(*pair) for pair in zip(one, other, strict=True)]
        return False if False in parts else None if None in parts else True
    if any(isinstance(each, Unknown | Imported | Instance) for each in (one, other)):
        return True if one is other else None
    if isinstance(one, Table | Listing) and isinstance(other, Table | Listing):
        return True if one is other else None
    return bool(one == other)


def is_in(item: Value, container: Value) -> bool | None:
    """Whether `item in container`; None where only a run would tell."""
    if isinstance(container, str) and isinstance(item, str):
        return item in container
    if isinstance(container, Table | Listing | tuple):
        found = [equal(each, item) for each in elements(container)]
        open_ended = not isinstance(container, tuple) and container.rest
        return True if True in found else None if None in found or open_ended else False
    return None


def elements(container: Table | Listing | tuple[Value, ...]) -> Iterable[Value]:
    """What iterating over it gives, as far as it is known."""
    return container if isinstance(container, tuple) else container.items


def joined(one: Value, other: Value, line: int) -> Value:
    """What two ways through the script that meet at `line` leave behind."""
    are_texts = isinstance(one, str) and isinstance(other, str)
    if one is other or ((are_texts or type(one) is type(other)) and one == other):
        return one
    return Unknown(line)


def joined_envs(envs: list[Env], line: int) -> Env:
    """The names after ways through the script that meet again.

    A name that one of them didn't set keeps the value of the others: whoever uses it came that way.
    """
    first, *others = envs
    together = dict(first)
    for env in others:
        for name, value in env.items():
            both = joined(together[name], value, line) if name in together else value
            together[name] = Unknown(line, name) if both == Unknown(line) else both
    return together
