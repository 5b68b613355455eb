"""Functions and classes of a script, followed as deep as MAX_CALLS_DEEP. Nothing of them is run."""

from __future__ import annotations

import ast

from omnicap_cli.prompt_import.branches import Branches, LeftError
from omnicap_cli.prompt_import.calls import Call
from omnicap_cli.prompt_import.clues import MAX_CALLS_DEEP
from omnicap_cli.prompt_import.expressions import PathEndsError
from omnicap_cli.prompt_import.values import (
    Class,
    Env,
    Frame,
    Function,
    Instance,
    Table,
    Unknown,
    Value,
    joined,
)


class Follower(Branches):
    """A reader of a whole script."""

    def _functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.frame.env[node.name] = Function(node, self.frame)

    _asyncfunctiondef = _functiondef

    def _classdef(self, node: ast.ClassDef) -> None:
        outer, self.frame = self.frame, Frame({}, self.frame, is_class=True)
        try:
            self.block(node.body)
        finally:
            inner, self.frame = self.frame, outer
        attributes = Table({}, self.scope)
        for base in map(self.value, reversed(node.bases)):
            if isinstance(base, Class):
                self.update(attributes, base.attributes, node.lineno)
        attributes.items |= inner.env
        annotated = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
        fields = tuple(target.id for target in annotated if isinstance(target, ast.Name))
        self.frame.env[node.name] = Class(node.name, attributes, fields)

    def _return(self, node: ast.Return) -> None:
        value = self.value(node.value) if node.value else None
        self.frame.left.append((value, self.frame.env))
        raise LeftError

    def follow(self, function: Function, call: Call) -> Value:
        """What a function of the script returns. Raises PathEndsError if it never ends well."""
        if function.node in self.followed or len(self.followed) >= MAX_CALLS_DEEP:
            return Unknown(call.line)
        unset = {name: Unknown(call.line, name) for name in parameters(function)}
        frame = self.enter(function, unset | self.defaults(function) | _passed(function, call))
        if frame.raised:
            self.frame.may_raise(dict(self.frame.env))
        return returned(frame)

    def enter(self, function: Function, env: Env) -> Frame:
        """Follow a function with these names set, and return how it was left."""
        outer = self.frame
        self.frame = frame = Frame(env, _defining(function.frame), line=function.node.lineno)
        self.followed.append(function.node)
        try:
            self.block(function.node.body)
            frame.left.append((None, frame.env))
        except PathEndsError:
            pass
        finally:
            self.frame = outer
            self.followed.pop()
        return frame

    def defaults(self, function: Function) -> Env:
        """The parameters that have a default, with its value."""
        takes = function.node.args
        positional = [each.arg for each in (*takes.posonlyargs, *takes.args)]
        nodes: list[tuple[str, ast.expr | None]] = [
            *zip(reversed(positional), reversed(takes.defaults), strict=False),
            *zip([each.arg for each in takes.kwonlyargs], takes.kw_defaults, strict=True),
        ]
        outer, self.frame = self.frame, function.frame
        try:
            return {name: self.value(node) for name, node in nodes if node}
        finally:
            self.frame = outer

    def construct(self, kind: Class, call: Call) -> Value:
        """An object of a class of the script, by its `__init__` or by the fields of a dataclass."""
        made = Instance(kind, Table({}, self.scope))
        start = kind.attributes.items.get("__init__")
        if isinstance(start, Function):
            self.follow(Function(start.node, start.frame, made), call)
        elif len(call.arguments) <= len(kind.fields):
            made.attributes.items |= dict(zip(kind.fields, call.arguments, strict=False)) | call.named
        return made


def returned(frame: Frame) -> Value:
    """What a function gives that was left. Raises PathEndsError if it never ends well."""
    values = [value for value, _ in frame.left]
    if not values:
        raise PathEndsError
    found = values[0]
    for other in values[1:]:
        found = joined(found, other, frame.line)
    return Unknown(frame.line) if frame.is_generator else found


def parameters(function: Function) -> list[str]:
    """The names of all parameters."""
    takes = function.node.args
    each = [*takes.posonlyargs, *takes.args, *takes.kwonlyargs, *filter(None, (takes.vararg, takes.kwarg))]
    return [parameter.arg for parameter in each]


def _passed(function: Function, call: Call) -> Env:
    """The parameters that a call sets."""
    takes = function.node.args
    positional = [each.arg for each in (*takes.posonlyargs, *takes.args)]
    values = [function.owner, *call.arguments] if function.owner else call.arguments
    by_name = {name: value for name, value in call.named.items() if name in parameters(function)}
    return dict(zip(positional, values, strict=False)) | by_name


def _defining(frame: Frame) -> Frame:
    """Where a function looks for names: methods don't see the names of their class."""
    return _defining(frame.parent) if frame.is_class and frame.parent else frame
