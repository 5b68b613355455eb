"""One run through a script: every function of it is followed, and the texts are gathered that it gives a role.

It knows roles, but neither types and styles nor a catalogue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from omnicap_cli.prompt_import.calls import Call
from omnicap_cli.prompt_import.clues import Clues, Event, Met
from omnicap_cli.prompt_import.expressions import PathEndsError, is_decorated, is_unknown
from omnicap_cli.prompt_import.functions import Follower, parameters, returned
from omnicap_cli.prompt_import.roles import BY_NAME, pair_of, role_of
from omnicap_cli.prompt_import.script import Script
from omnicap_cli.prompt_import.values import (
    Class,
    Env,
    Frame,
    Function,
    Imported,
    Instance,
    Scope,
    Unknown,
    Value,
    joined_envs,
)


@dataclass(slots=True)
class Run:
    """`events` are those of the functions that looked at the run's key; `envs` the names where each ended.

    `roles` are those of which the script speaks anywhere.
    """

    events: list[Event] = field(default_factory=list)
    envs: list[Env] = field(default_factory=list)
    roles: set[str] = field(default_factory=set)


def follow_script(script: Script, clues: Clues, bindings: Mapping[str, str]) -> Run:
    """Follow a script with selectors bound to keys: to a Seed for the one that the run is about."""
    reader = Follower(clues, bindings)
    reader.frame = module = Frame({})
    run = Run()
    with contextlib.suppress(PathEndsError):  # what was defined before is defined
        reader.block(script.tree.body)
    _gather(run, reader, module.env)
    events = list(run.events)
    while True:
        num_spoiled = clues.num_spoiled
        for function, kind in _functions(module.env):
            _follow_function(run, reader, function, kind)
        if clues.num_spoiled == num_spoiled:
            return run
        run.events, run.envs = list(events), [module.env]  # again, for a function changed what another one read


def _gather(run: Run, reader: Follower, env: Env) -> None:
    """The messages that were met, and the variables with a role."""
    run.envs.append(env)
    found = [*reader.events, *named_texts(env)]
    for value in env.values():
        if isinstance(value, Instance):
            found += named_texts(value.attributes.items)
    run.roles |= {event.role for event in found}
    if reader.met:
        run.events += [event._replace(met=reader.met) for event in found]
    reader.events, reader.met = [], Met.NOT


def named_texts(env: Env) -> list[Event]:
    """The texts among variables whose names speak of a role."""
    found = []
    for name, value in env.items():
        role = role_of(name) if isinstance(name, str) else None
        is_module = isinstance(value, Imported) and "." not in value.name
        if role and (isinstance(value, str) or (is_unknown(value) and not is_module)):
            found.append(Event(role.name, role.rank, value))
    return found


def _functions(env: Env) -> list[tuple[Function, Class | None]]:
    """Every function once, and every method with its class."""
    found: dict[int, tuple[Function, Class | None]] = {}
    for value in env.values():
        if isinstance(value, Function):
            found.setdefault(id(value.node), (value, None))
        elif isinstance(value, Class):
            methods = [each for each in value.attributes.items.values() if isinstance(each, Function)]
            found |= {id(each.node): (each, value) for each in methods if id(each.node) not in found}
    return list(found.values())


def _follow_function(run: Run, reader: Follower, function: Function, kind: Class | None) -> None:
    """As its caller would: a parameter that selects nothing has its default."""
    reader.scope = Scope(is_module=False)  # what the script made before may only be read
    env = _unknown_parameters(function)
    given = reader.defaults(function)
    if reader.bindings:  # without them, it is still to be found out what selects
        env |= {name: value for name, value in given.items() if name not in reader.clues.selectors}
    if kind and env and not is_decorated(function, "staticmethod"):
        env[next(iter(env))] = kind if is_decorated(function, "classmethod") else _object(reader, kind)
    reader.events, reader.met = [], Met.NOT
    frame = reader.enter(function, env)
    if frame.left:
        reader.events += _returned_texts(function.node.name, frame)
        _gather(run, reader, joined_envs([left for _, left in frame.left], function.node.lineno))


def _unknown_parameters(function: Function) -> Env:
    return {name: Unknown(function.node.lineno, name, is_parameter=True) for name in parameters(function)}


def _object(reader: Follower, kind: Class) -> Value:
    """An object of which its class alone tells something."""
    start = kind.attributes.items.get("__init__")
    unknown = _unknown_parameters(start) if isinstance(start, Function) else {}
    try:
        return reader.construct(kind, Call([], dict(list(unknown.items())[1:]), 1))
    except PathEndsError:
        return Unknown(1)


def _returned_texts(name: str, frame: Frame) -> list[Event]:
    value = returned(frame)
    role = role_of(name)
    if isinstance(value, str | Unknown):
        return [Event(role.name, role.rank, value)] if role else []
    return [Event(role_name, BY_NAME, part) for role_name, part in pair_of(value)]
