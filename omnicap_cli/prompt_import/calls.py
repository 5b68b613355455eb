"""What a call in a script gives, for the few functions whose result is certain. It knows no statements.

A function of the script itself is followed in `functions`; every other call is Unknown.
"""

from __future__ import annotations

import ast
import inspect
import string
import textwrap
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from omnicap_cli.prompt_import.clues import Met
from omnicap_cli.prompt_import.containers import Containers
from omnicap_cli.prompt_import.expressions import PathEndsError, is_decorated, is_unknown, selector, unpacked
from omnicap_cli.prompt_import.values import (
    Class,
    Env,
    Function,
    Imported,
    Instance,
    Listing,
    Seed,
    Table,
    Unknown,
    Value,
    elements,
)

_MAX_PRODUCT: Final = 100_000_000  # characters of a text times those of what is put into it
_TEXT_METHODS: Final = frozenset(
    {
        *("strip", "lstrip", "rstrip", "lower", "upper", "casefold", "title", "capitalize", "replace", "format"),
        *("join", "split", "rsplit", "splitlines", "startswith", "endswith", "removeprefix", "removesuffix"),
    }
)
_KEPT_NAME: Final = frozenset({"strip", "lower", "upper", "casefold", "title", "capitalize", "replace"})
_DRAWS: Final = frozenset({"random.choice", "numpy.random.choice", "secrets.choice"})
_ENDS: Final = frozenset({"sys.exit", "builtins.exit", "builtins.quit", "os._exit"})


class Call(NamedTuple):
    """What a function is called with, and where."""

    arguments: list[Value]
    named: Env
    line: int


class Calls(Containers):
    """A reader of calls."""

    def follow(self, function: Function, call: Call) -> Value:
        """What a function of the script returns."""
        raise NotImplementedError

    def construct(self, kind: Class, call: Call) -> Value:
        """An object of a class of the script."""
        raise NotImplementedError

    def attribute(self, base: Value, name: str, line: int) -> Value:
        """`base.name`: of an object of the script, of a module, or unknown."""
        if isinstance(base, Imported):
            return Imported(f"{base.name}.{name}", line)
        if isinstance(base, Class):
            return self._of_class(base, name, None, line)
        if not isinstance(base, Instance):
            return Unknown(line, name)
        own = base.attributes
        if name in own.items or own.rest:
            return own.items.get(name, own.rest)
        return self._of_class(base.kind, name, base, line)

    def _of_class(self, kind: Class, name: str, owner: Instance | None, line: int) -> Value:
        found = kind.attributes.items.get(name, kind.attributes.rest or Unknown(line, name))
        if isinstance(found, Function) and is_decorated(found, "classmethod"):
            return Function(found.node, found.frame, kind)
        if not isinstance(found, Function) or not owner or is_decorated(found, "staticmethod"):
            return found
        bound = Function(found.node, found.frame, owner)
        is_property = is_decorated(found, "property", "cached_property")
        return self.follow(bound, Call([], {}, line)) if is_property else bound

    def _call(self, node: ast.Call) -> Value:
        base = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else None
        arguments, more = self.items(node.args)
        given = Table({}, self.scope)
        for each in node.keywords:
            value = self.value(each.value)
            self.update(given, Table({each.arg: value}, self.scope) if each.arg else value, node.lineno)
        call = Call(arguments, given.items, node.lineno)
        unknown = more or given.rest
        if isinstance(node.func, ast.Attribute):
            if isinstance(base, str | Table | Listing | Unknown):
                return self.seeded(self._method(node.func.attr, base, call, unknown))
            callee = self.attribute(base, node.func.attr, node.lineno)
        else:
            callee = self.value(node.func)
        return Unknown(node.lineno) if unknown else self._called(callee, call)

    def _called(self, callee: Value, call: Call) -> Value:
        if isinstance(callee, Function):
            return self.follow(callee, call)
        if isinstance(callee, Class):
            return self.construct(callee, call)
        if not isinstance(callee, Imported):
            return Unknown(call.line)
        if callee.name in _ENDS:
            raise PathEndsError
        if callee.name in _DRAWS:
            return self._drawn(call)
        known = _FUNCTIONS.get(callee.name)
        return known(self, call) if known else Unknown(call.line)

    def _drawn(self, call: Call) -> Value:
        """The first of what is drawn from at random."""
        of = call.arguments[0] if call.arguments else None
        if not isinstance(of, Listing | tuple) or not elements(of) or (isinstance(of, Listing) and of.rest):
            return Unknown(call.line)
        first = next(iter(elements(of)))
        if isinstance(first, str):
            self.clues.draws[call.line] = first
        return first

    # --------------------------------------------------------------------------------------------- methods

    def _method(self, name: str, base: Value, call: Call, unknown: Unknown | None) -> Value:
        if isinstance(base, Unknown):
            return Unknown(call.line, selector(base) if name in _KEPT_NAME else "", base.is_parameter)
        if isinstance(base, str):
            return unknown or self._text_method(name, base, call)
        if isinstance(base, Table):
            return self._table_method(name, base, call)
        return self._listing_method(name, base, call)

    def _text_method(self, name: str, text: str, call: Call) -> Value:
        """Only what is certain, and can't grow beyond bounds: no widths, no repetition."""
        given_values = [*call.arguments, *call.named.values()]
        values = [each.items if isinstance(each, Listing) else each for each in given_values]
        parts = [part for each in values for part in (each if isinstance(each, list | tuple) else [each])]
        parts += [each.rest for each in given_values if isinstance(each, Listing) and each.rest]
        unknown = next((part for part in parts if isinstance(part, Unknown)), None)
        if unknown or name not in _TEXT_METHODS:
            return unknown or Unknown(call.line)
        num_put_in = sum(len(part) if isinstance(part, str) else 20 for part in parts)
        is_template = name == "format"
        if (len(text) + 1) * (num_put_in + 1) > _MAX_PRODUCT or (is_template and not _is_plain_template(text, values)):
            return Unknown(call.line)
        given = dict(zip(call.named, values[len(call.arguments) :], strict=True))
        try:
            result = getattr(str(text), name)(*values[: len(call.arguments)], **given)
        except (TypeError, ValueError, LookupError):  # LookupError: a template without its value
            return Unknown(call.line)
        if isinstance(result, bool):
            self.meet(text, Met.HIT if result else Met.ASKED)
        if isinstance(result, str):
            return Seed(result) if isinstance(text, Seed) else result
        return Listing(result, self.scope) if isinstance(result, list) else result

    def _table_method(self, name: str, table: Table, call: Call) -> Value:
        if name in ("get", "pop", "setdefault") and call.arguments:
            if name != "get":
                self.spoil(table, call.line)
            return self.look_up(table, call.arguments[0], call.line, *(call.arguments[1:2] or [None]))
        if name == "copy":
            return Table(dict(table.items), self.scope, table.rest)
        if name in ("items", "keys", "values") and not call.arguments:
            views: dict[str, Any] = {"items": table.items.items(), "keys": table.items, "values": table.items.values()}
            return Listing(list(views[name]), self.scope, table.rest)
        if name == "update" and self.may_change(table, call.line):
            for more in (*call.arguments[:1], Table(call.named, self.scope)):
                self.update(table, more, call.line)
            return None
        self.spoil(table, call.line)
        return Unknown(call.line)

    def _listing_method(self, name: str, listing: Listing, call: Call) -> Value:
        if name == "copy":
            return Listing(list(listing.items), self.scope, listing.rest)
        if name in ("append", "add", "extend") and len(call.arguments) == 1 and self.may_change(listing, call.line):
            more = call.arguments[0]
            self.extend(listing, more if name == "extend" else (more,), call.line)
            return None
        if name not in ("index", "count"):
            self.spoil(listing, call.line)
        return Unknown(call.line)

    def extend(self, listing: Listing, more: Value, line: int) -> None:
        """`listing += more`."""
        if isinstance(more, tuple) or (isinstance(more, Listing) and not more.rest):
            listing.items += list(elements(more))
        else:
            self.obscure(listing, Unknown(line))

    def may_change(self, box: Table | Listing, line: int) -> bool:
        """Whether a change is sure to take place, once; where it isn't, nothing is known of `box` from now on."""
        if box.scope is self.scope:
            return True
        self.spoil(box, line)
        return False

    def spoil(self, box: Table | Listing, line: int) -> None:
        """Forget what `box` holds: it is changed in a way, or at a time, that isn't followed."""
        if box.scope.is_module and not self.scope.is_module and box.rest is None:
            self.clues.num_spoiled += 1
        self.obscure(box, Unknown(line))


def _is_plain_template(text: str, values: list[Value]) -> bool:
    """Whether `str.format` only puts texts and numbers in: no widths, and no way into Python's objects."""
    try:
        fields = [each for each in string.Formatter().parse(text) if each[1] is not None]
    except ValueError:
        return False
    return all(isinstance(value, str | int | float) for value in values) and all(
        not spec and conversion is None and (name == "" or str(name).isidentifier() or str(name).isdecimal())
        for _, name, spec, conversion in fields
    )


def _dict(calls: Calls, call: Call) -> Value:
    table = Table({}, calls.scope)
    for more in call.arguments[:1]:
        if isinstance(more, tuple) or (isinstance(more, Listing) and not more.rest):
            for pair in elements(more):
                key, value = unpacked(pair, 2, call.line)
                calls.put(table, key, value, call.line)
        else:
            calls.update(table, more, call.line)
    calls.update(table, Table(call.named, calls.scope), call.line)
    calls.see_message(table, call.line)
    return table


def _listing(calls: Calls, of: Value) -> Listing | None:
    if not isinstance(of, Table | Listing | tuple):
        return None
    return Listing(list(elements(of)), calls.scope, None if isinstance(of, tuple) else of.rest)


def _list(calls: Calls, call: Call) -> Value:
    if not call.arguments:
        return Listing([], calls.scope)
    return _listing(calls, call.arguments[0]) or Unknown(call.line)


def _tuple(calls: Calls, call: Call) -> Value:
    listing = _list(calls, call)
    return tuple(listing.items) if isinstance(listing, Listing) and not listing.rest else Unknown(call.line)


def _zip(calls: Calls, call: Call) -> Value:
    listings = [_listing(calls, each) for each in call.arguments]
    known = [each.items for each in listings if each and not each.rest]
    if len(known) < len(listings):
        return Unknown(call.line)
    return Listing(list(zip(*known, strict=False)), calls.scope)


def _enumerate(calls: Calls, call: Call) -> Value:
    listing = _listing(calls, call.arguments[0]) if len(call.arguments) == 1 and not call.named else None
    return Listing(list(enumerate(listing.items)), calls.scope, listing.rest) if listing else Unknown(call.line)


def _setattr(calls: Calls, call: Call) -> Value:
    for changed in call.arguments[:1]:
        if isinstance(changed, Class | Instance):
            calls.spoil(changed.attributes, call.line)
    return None


def _of_text(function: Callable[[str], str]) -> Callable[[Calls, Call], Value]:
    def read(_calls: Calls, call: Call) -> Value:
        of = call.arguments[0] if len(call.arguments) == 1 and not call.named else None
        return function(of) if isinstance(of, str) else of if is_unknown(of) else Unknown(call.line)

    return read


_FUNCTIONS: Final[dict[str, Callable[[Calls, Call], Value]]] = {
    "builtins.dict": _dict,
    "collections.OrderedDict": _dict,
    "builtins.list": _list,
    "builtins.set": _list,
    "builtins.tuple": _tuple,
    "builtins.zip": _zip,
    "builtins.enumerate": _enumerate,
    "builtins.setattr": _setattr,
    "builtins.str": _of_text(lambda text: text),
    "textwrap.dedent": _of_text(textwrap.dedent),
    "inspect.cleandoc": _of_text(inspect.cleandoc),
}
