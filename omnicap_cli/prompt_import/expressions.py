"""What an expression of a script is worth, as far as that can be known without running it. It changes no names.

What stands in brackets is read in `containers`, calls in `calls`; whatever is not understood becomes Unknown with its
line, and nothing is guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from omnicap_cli.prompt_import.clues import Clues, Event, Met
from omnicap_cli.prompt_import.values import (
    Frame,
    Function,
    Imported,
    Listing,
    Scope,
    Seed,
    Table,
    Unknown,
    Value,
    elements,
    equal,
    is_in,
    joined,
    truth,
)

MAX_TEXT: Final = 1_000_000  # characters; what is longer is no prompt
_MAX_ITEMS: Final = 100_000
_PLAIN_MARKS: Final = re.compile("%[sd%]")
_COMPARED: Final[Mapping[type[ast.cmpop], Callable[[Value, Value], bool | None]]] = {
    ast.Eq: equal,
    ast.NotEq: equal,
    ast.Is: equal,
    ast.IsNot: equal,
    ast.In: is_in,
    ast.NotIn: is_in,
}
_NEGATED: Final = (ast.NotEq, ast.IsNot, ast.NotIn)


class PathEndsError(Exception):
    """The way through the script that is followed ends here: a `raise`, a missing key, `sys.exit`."""


class Expressions:
    """A reader of expressions; `bindings` are the selectors of this run with the keys that they hold."""

    def __init__(self, clues: Clues, bindings: Mapping[str, str]) -> None:
        self.clues, self.bindings = clues, bindings
        self.frame = Frame({})
        self.scope = Scope(is_module=True)
        self.events: list[Event] = []
        self.met = Met.NOT
        self.followed: list[ast.AST] = []  # the functions that are being followed, the innermost last

    def value(self, node: ast.expr) -> Value:
        """What `node` is worth: a value of `values`. Raises PathEndsError."""
        self.clues.count_step()
        read = getattr(self, f"_{type(node).__name__.lower()}", None)
        found = read(node) if read else Unknown(node.lineno)
        return Unknown(node.lineno) if too_long(found) else found

    def test(self, node: ast.expr) -> bool | None:
        """Whether a condition holds; None where only a run would tell."""
        return truth(self.value(node))

    def seeded(self, value: Value) -> Value:
        """A selector's key where this run binds it, else `value` as it is."""
        name = selector(value)
        return self.bindings.get(name, value)

    def meet(self, key: Value, met: Met) -> None:
        """Take note of what the script does with the key that the run is about."""
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, Seed) for part in parts):
            self.met = max(self.met, met)

    # --------------------------------------------------------------------------------------- names and parts

    def _constant(self, node: ast.Constant) -> Value:
        return node.value

    def _name(self, node: ast.Name) -> Value:
        frame: Frame | None = self.frame
        while frame:
            if node.id in frame.env and (frame is self.frame or not frame.is_class):
                return self.seeded(frame.env[node.id])
            frame = frame.parent
        return self.seeded(Imported(f"builtins.{node.id}", node.lineno))

    def _attribute(self, node: ast.Attribute) -> Value:
        return self.seeded(self.attribute(self.value(node.value), node.attr, node.lineno))

    def attribute(self, base: Value, name: str, line: int) -> Value:
        """`base.name`."""
        raise NotImplementedError

    def _subscript(self, node: ast.Subscript) -> Value:
        base, key = self.value(node.value), self.value(node.slice)
        if isinstance(base, Table):
            return self.seeded(self.look_up(base, key, node.lineno))
        if isinstance(base, Listing | tuple | str):
            return self._part(base, key, node.lineno)
        return self.seeded(Unknown(node.lineno, key if isinstance(key, str) else selector(base)))

    def look_up(self, table: Table, key: Value, line: int, *instead: Value) -> Value:
        """`table[key]`, or `instead` where the key is missing; without it the script would stop there."""
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str | int | None) for part in parts):
            for place, part in enumerate(parts):
                keys = [each[place] if isinstance(each, tuple) and place < len(each) else each for each in table.items]
                self.clues.note(selector(part), keys, line)
            return Unknown(line)
        self.meet(key, Met.HIT if key in table.items else Met.ASKED)
        if key in table.items:
            return table.items[key]
        if table.rest:
            if not instead:
                self.frame.may_raise(dict(self.frame.env))  # for the key may be missing
            return table.rest
        if not instead:
            raise PathEndsError
        return instead[0]

    def _part(self, base: Listing | tuple[Value, ...] | str, key: Value, line: int) -> Value:
        if isinstance(base, Listing) and base.rest:
            return base.rest
        items = base.items if isinstance(base, Listing) else base
        if not isinstance(key, int | slice):
            return Unknown(line)
        try:
            part = items[key]
        except (IndexError, ValueError, TypeError) as error:
            raise PathEndsError from error
        return Listing(part, self.scope) if isinstance(part, list) and isinstance(key, slice) else part

    def _slice(self, node: ast.Slice) -> Value:
        ends = [self.value(end) if end else None for end in (node.lower, node.upper, node.step)]
        return slice(*ends) if all(isinstance(end, int | None) for end in ends) else Unknown(node.lineno)

    # --------------------------------------------------------------------------------------------- changes

    def update(self, table: Table, more: Value, line: int) -> None:
        """`{**table, **more}`."""
        if isinstance(more, Table):
            if more.rest:
                self.obscure(table, more.rest)
            table.items |= more.items
        else:
            self.obscure(table, Unknown(line))

    def put(self, table: Table, key: Value, value: Value, line: int) -> None:
        """`table[key] = value`; a key that isn't known may be any of them."""
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str | int | None) for part in parts):
            self.obscure(table, Unknown(line))
            return
        for part in parts:
            if isinstance(part, str):
                self.clues.keys.add(part)
                self.clues.lines.setdefault(part, line)
        table.items[key] = value

    def obscure(self, box: Table | Listing, why: Unknown) -> None:
        """From here on nothing is known of what it holds."""
        box.rest = why
        if isinstance(box, Table):
            box.items = dict.fromkeys(box.items, why)
        else:
            box.items = []

    def bind(self, target: ast.expr, value: Value) -> None:
        """Give a value to a name or to a row of names; the statements know more kinds of targets."""
        if isinstance(target, ast.Name):
            self.frame.env[target.id] = named(value, target.id)
        elif isinstance(target, ast.Tuple | ast.List):
            for each, part in zip(target.elts, unpacked(value, len(target.elts), target.lineno), strict=True):
                self.bind(each, part)

    # ------------------------------------------------------------------------------------------ operations

    def _joinedstr(self, node: ast.JoinedStr) -> Value:
        return self._concatenated([self.value(part) for part in node.values], node.lineno)

    def _formattedvalue(self, node: ast.FormattedValue) -> Value:
        value = self.value(node.value)
        if is_unknown(value):
            return value
        is_plain = node.conversion in (-1, ord("s")) and node.format_spec is None
        try:
            return str(value) if is_plain and isinstance(value, str | int | float) else Unknown(node.lineno)
        except ValueError:  # a whole number of thousands of digits
            return Unknown(node.lineno)

    def _concatenated(self, parts: list[Value], line: int) -> Value:
        unknown = next((part for part in parts if is_unknown(part)), None)
        if unknown is not None:  # without its name, which selects nothing any more
            return Unknown(unknown.line, is_parameter=isinstance(unknown, Unknown) and unknown.is_parameter)
        if not all(isinstance(part, str) for part in parts) or sum(map(len, parts)) > MAX_TEXT:
            return Unknown(line)
        return "".join(parts)

    def _binop(self, node: ast.BinOp) -> Value:
        if isinstance(node.op, ast.Add):
            return self._sum(node)
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(node.op, ast.Mod) and isinstance(left, str):
            return self._interpolated(left, right, node.lineno)
        if isinstance(node.op, ast.BitOr) and isinstance(left, Table):
            table = Table(dict(left.items), self.scope, left.rest)
            self.update(table, right, node.lineno)
            return table
        if isinstance(node.op, ast.Mult) and isinstance(left, str) and isinstance(right, int):
            return left * right if len(left) * right <= MAX_TEXT else Unknown(node.lineno)
        unknown = next((each for each in (left, right) if isinstance(each, Unknown)), None)
        return unknown or Unknown(node.lineno)

    def _interpolated(self, template: str, values: Value, line: int) -> Value:
        """`template % values`, where it only puts texts and whole numbers in."""
        parts = values if isinstance(values, tuple) else (values,)
        unknown = next((part for part in parts if isinstance(part, Unknown)), None)
        is_plain = all(isinstance(part, str | int) for part in parts) and "%" not in _PLAIN_MARKS.sub("", template)
        if unknown or not is_plain or sum(len(part) for part in parts if isinstance(part, str)) > MAX_TEXT:
            return unknown or Unknown(line)
        try:
            return self._concatenated([template % parts], line)
        except (TypeError, ValueError):
            return Unknown(line)

    def _sum(self, node: ast.BinOp) -> Value:
        """`a + b + c`: not one by one, for a long sum would nest as deep as it is long."""
        left: ast.expr = node
        nodes: list[ast.expr] = []
        while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
            nodes.append(left.right)
            left = left.left
        return self.added([self.value(each) for each in (left, *reversed(nodes))], node.lineno)

    def added(self, parts: list[Value], line: int) -> Value:
        """The sum of texts, of lists or of tuples."""
        if all(isinstance(part, Listing) for part in parts):
            rest = next((part.rest for part in parts if part.rest), None)
            return Listing([item for part in parts for item in part.items], self.scope, rest)
        if all(isinstance(part, tuple) for part in parts):
            return tuple(item for part in parts for item in part)
        return self._concatenated(parts, line)

    def _boolop(self, node: ast.BoolOp) -> Value:
        is_or = isinstance(node.op, ast.Or)
        possible: list[Value] = []
        for each in node.values:
            found = self._tried(each) if possible else [self.value(each)]
            for value in found:
                known = truth(value)
                if known is None or known is is_or or each is node.values[-1]:
                    possible.append(value)
            if found and truth(found[0]) is is_or:  # the rest isn't looked at
                break
        return self._one_of(possible, node.lineno)

    def _tried(self, node: ast.expr) -> list[Value]:
        """The value of what may not be looked at: none where that would end the way."""
        try:
            return [self.value(node)]
        except PathEndsError:
            self.frame.may_raise(dict(self.frame.env))
            return []

    def _one_of(self, possible: list[Value], line: int) -> Value:
        if not possible:
            raise PathEndsError
        found = possible[0]
        for other in possible[1:]:
            found = joined(found, other, line)
        return found

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        value = self.value(node.operand)
        known = truth(value)
        if isinstance(node.op, ast.Not) and known is not None:
            return not known
        return -value if isinstance(node.op, ast.USub) and isinstance(value, int) else Unknown(node.lineno)

    def _compare(self, node: ast.Compare) -> Value:
        op = node.ops[0]
        if len(node.ops) != 1 or type(op) not in _COMPARED:
            return Unknown(node.lineno)
        result = self.compared(_COMPARED[type(op)], self.value(node.left), self.value(node.comparators[0]), node.lineno)
        return Unknown(node.lineno) if result is None else result != isinstance(op, _NEGATED)

    def compared(
        self, comparison: Callable[[Value, Value], bool | None], left: Value, right: Value, line: int
    ) -> bool | None:
        """The result of `equal` or `is_in`, with note taken of what selects, and of what the run is about."""
        self._see_comparison(left, right, line)
        result = comparison(left, right)
        met = Met.HIT if result else Met.ASKED
        self.meet(left, met)
        if comparison is equal:
            self.meet(right, met)
        return result

    def _see_comparison(self, left: Value, right: Value, line: int) -> None:
        for one, other in ((left, right), (right, left)):
            if isinstance(other, str):
                self.clues.keys.add(other)
                self.clues.note(selector(one), [other], line)
        if isinstance(right, Table | Listing | tuple):
            self.clues.note(selector(left), list(elements(right)), line)
        if isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
            for pair in zip(left, right, strict=True):
                self._see_comparison(*pair, line)

    def _ifexp(self, node: ast.IfExp) -> Value:
        known = self.test(node.test)
        if known is not None:
            return self.value(node.body if known else node.orelse)
        return self._one_of(self._tried(node.body) + self._tried(node.orelse), node.lineno)

    def _namedexpr(self, node: ast.NamedExpr) -> Value:
        value = self.value(node.value)
        self.bind(node.target, value)
        return value

    def _await(self, node: ast.Await) -> Value:
        return self.value(node.value)

    def _yield(self, node: ast.Yield | ast.YieldFrom) -> Value:
        self.frame.is_generator = True
        if node.value:
            self.value(node.value)
        return Unknown(node.lineno)

    _yieldfrom = _yield


def too_long(value: Value) -> bool:
    """Whether a text or list is longer than any that prompts are made of: a script may double one again and again."""
    if isinstance(value, str):
        return len(value) > MAX_TEXT
    items = value.items if isinstance(value, Listing) else value
    return isinstance(items, list | tuple) and len(items) > _MAX_ITEMS


def is_decorated(function: Function, *names: str) -> bool:
    """Whether a decorator with one of these names stands on a function."""
    return any(isinstance(each, ast.Name) and each.id in names for each in function.node.decorator_list)


def is_unknown(value: Value) -> bool:
    """Whether only a run of the script would tell."""
    return isinstance(value, Unknown | Imported)


def selector(value: Value) -> str:
    """The name under which a value that isn't known is kept: it may select prompts. Empty if it has none."""
    if isinstance(value, Unknown):
        return value.name
    return value.name.rpartition(".")[2] if isinstance(value, Imported) else ""


def named(value: Value, name: str) -> Value:
    """`value` as it is kept under `name`."""
    return Unknown(value.line, name) if isinstance(value, Unknown) and not value.name else value


def unpacked(value: Value, num_parts: int, line: int) -> Sequence[Value]:
    """The parts that `a, b = value` gives to so many names."""
    items = value.items if isinstance(value, Listing) and not value.rest else value
    if isinstance(items, list | tuple) and len(items) == num_parts:
        return items
    return [Unknown(value.line if is_unknown(value) else line)] * num_parts


def names_of(target: ast.expr) -> list[str]:
    """The names that a loop sets, in order; the empty text for what is no name."""
    targets = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
    return [each.id if isinstance(each, ast.Name) else "" for each in targets]
