"""The tables that a script keeps: texts by key, and which keys belong to which type. It follows no statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from omnicap_cli.prompt_import.expressions import is_unknown
from omnicap_cli.prompt_import.roles import BY_VAGUE_NAME, Role, are_keys, pair_of, role_of
from omnicap_cli.prompt_import.values import Class, Env, Instance, Listing, Table, Value

_MAX_DEPTH: Final = 5
_NAME_FIELDS: Final = ("name", "key", "style", "type", "task")


class Entry(NamedTuple):
    """`keys` lead to a text, outermost first. `role` is None where nothing says it."""

    keys: tuple[str, ...]
    role: str | None
    value: Value


class Listed(NamedTuple):
    """The keys that `table` lists for `of`."""

    of: str
    keys: tuple[str, ...]
    table: str


def entries(envs: Iterable[Env], type_in: Callable[[str], str | None]) -> Iterator[Entry | Listed]:
    """What the tables and texts among the names of a script hold.

    `type_in` says which type the name of a variable speaks of: that is the type of the keys in its table.
    """
    names: dict[int, tuple[Value, list[str]]] = {}
    for name, value in _named_values(envs):
        names.setdefault(id(value), (value, []))[1].append(name)
    inner = {id(part) for value, _ in names.values() for part in _parts(value, 0)}
    for value, called in names.values():
        if id(value) in inner:
            continue
        kind = next(filter(None, map(type_in, called)), None)
        for found in _walk(value, (), _role(called), 0):
            if kind and isinstance(found, Entry) and len(found.keys) == 1:
                yield found._replace(keys=(kind, *found.keys))
            else:
                yield found if isinstance(found, Entry) else found._replace(table=called[0])


def named_lists(envs: Iterable[Env]) -> Iterator[Listed]:
    """The variables that hold nothing but keys; `of` is empty."""
    for name, value in _named_values(envs):
        items = value.items if isinstance(value, Listing) else value
        if isinstance(items, list | tuple) and are_keys(list(items)):
            yield Listed("", tuple(map(str, items)), name)


def _named_values(envs: Iterable[Env]) -> Iterator[tuple[str, Value]]:
    for env in envs:
        for name, value in env.items():
            if isinstance(value, Class | Instance):
                yield from ((str(key), each) for key, each in value.attributes.items.items())
            else:
                yield name, value


def _role(names: list[str]) -> Role | None:
    """What the names of one value agree on: a clear one counts more than a vague one."""
    roles = sorted({role for name in names if (role := role_of(name))}, key=lambda role: role.rank)
    if not roles or (len(roles) > 1 and roles[1].rank < BY_VAGUE_NAME):
        return None
    return roles[0]


def _parts(value: Value, depth: int) -> Iterator[Value]:
    """The tables within a table."""
    held: Iterable[Any] = ()
    if isinstance(value, Table):
        held = value.items.values()
    elif isinstance(value, Listing | tuple):
        held = value if isinstance(value, tuple) else value.items
    for each in held:
        if isinstance(each, Table | Listing) and depth < _MAX_DEPTH:
            yield each
            yield from _parts(each, depth + 1)


def _walk(value: Value, keys: tuple[str, ...], role: Role | None, depth: int) -> Iterator[Entry | Listed]:
    if isinstance(value, str) or is_unknown(value):
        if keys:
            yield Entry(keys, role.name if role else None, value)
        return
    pair = pair_of(value)
    if pair and keys:
        yield from (Entry(keys, name, text) for name, text in pair)
    elif depth < _MAX_DEPTH:
        for key, each in _branches(value):
            yield from _walk_branch(key, each, keys, role, depth)
        if isinstance(value, Listing | tuple) and keys:
            items = list(value) if isinstance(value, tuple) else value.items
            if are_keys(items):
                yield Listed(keys[-1], tuple(map(str, items)), "")


def _walk_branch(
    key: tuple[str, ...], value: Value, keys: tuple[str, ...], role: Role | None, depth: int
) -> Iterator[Entry | Listed]:
    named = role_of(key[0]) if len(key) == 1 else None
    if named and named.rank < BY_VAGUE_NAME and not isinstance(value, str):
        yield from _walk(value, keys, named, depth + 1)  # {"system": {key: text}, "question": {key: text}}
    else:
        yield from _walk(value, (*keys, *key), role, depth + 1)


def _branches(value: Value) -> Iterator[tuple[tuple[str, ...], Value]]:
    """The keys of a table with what each leads to; a list of (key, text …) is a table too."""
    if isinstance(value, Table):
        if "role" in value.items and "content" in value.items:
            return  # a message
        for key, each in value.items.items():
            parts = key if isinstance(key, tuple) else (key,)
            if all(isinstance(part, str) for part in parts):
                yield tuple(map(str, parts)), each
        return
    if not isinstance(value, Listing | tuple):
        return
    for row in value if isinstance(value, tuple) else value.items:
        if isinstance(row, tuple) and len(row) in (2, 3) and are_keys([row[0]]):
            yield (row[0],), row[1] if len(row) == 2 else row[1:]
        elif isinstance(row, Table):
            name = next((row.items[field] for field in _NAME_FIELDS if isinstance(row.items.get(field), str)), None)
            if name and pair_of(row):
                yield (name,), row
