"""Dicts, lists, tuples and comprehensions of a script, and the messages to a model among them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Final

from omnicap_cli.prompt_import.clues import Event, Met
from omnicap_cli.prompt_import.expressions import Expressions, is_unknown, names_of
from omnicap_cli.prompt_import.roles import IN_MESSAGE, QUESTION, SYSTEM
from omnicap_cli.prompt_import.values import Frame, Listing, Seed, Table, Unknown, Value, elements

_ROLES: Final = {"system": SYSTEM, "user": QUESTION, "human": QUESTION}


class Containers(Expressions):
    """A reader of what stands in brackets."""

    def _tuple(self, node: ast.Tuple) -> Value:
        items, rest = self.items(node.elts)
        self._note_keys(node.elts)
        return rest or tuple(items)

    def _list(self, node: ast.List | ast.Set) -> Value:
        items, rest = self.items(node.elts)
        self._note_keys(node.elts)
        return Listing(items, self.scope, rest)

    _set = _list

    def _note_keys(self, nodes: list[ast.expr]) -> None:
        for node in nodes:
            if isinstance(node, ast.Constant):
                self.clues.note("", [node.value], node.lineno)

    def items(self, nodes: list[ast.expr]) -> tuple[list[Value], Unknown | None]:
        """What stands in brackets, and Unknown if more may stand there."""
        items: list[Value] = []
        rest = None
        for node in nodes:
            if not isinstance(node, ast.Starred):
                items.append(self.value(node))
                continue
            inner = self.value(node.value)
            if not isinstance(inner, Table | Listing | tuple) or (not isinstance(inner, tuple) and inner.rest):
                rest = Unknown(node.lineno)
            else:
                items += elements(inner)
        return items, rest

    def _dict(self, node: ast.Dict) -> Value:
        table = Table({}, self.scope)
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self.value(value_node)
            if key_node is None:
                self.update(table, value, value_node.lineno)
            else:
                self.put(table, self.value(key_node), value, key_node.lineno)
        self.see_message(table, node.lineno)
        return table

    def see_message(self, table: Table, line: int) -> None:
        """Take note of a message to a model, which says what its text is."""
        sender = table.items.get("role")
        role = _ROLES.get(sender) if isinstance(sender, str) else None
        if role is None:
            return
        content = table.items.get("content")
        if isinstance(content, Listing):  # beside the text stand pictures, in any form
            texts = [part.items["text"] for part in content.items if isinstance(part, Table) and "text" in part.items]
        else:
            texts = [content if isinstance(content, str) or is_unknown(content) else Unknown(line)]
        if texts:
            self.events.append(Event(role, IN_MESSAGE, texts[0] if len(texts) == 1 else Unknown(line)))

    # ---------------------------------------------------------------------------------------- comprehensions

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        listing = Listing([], self.scope)

        def take(is_sure: bool) -> None:
            value = self.value(node.elt)
            if is_sure:
                listing.items.append(value)
            else:
                listing.rest = Unknown(node.lineno)

        self._comprehend(node.generators, take)
        return listing

    _setcomp = _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp) -> Value:
        table = Table({}, self.scope)

        def take(is_sure: bool) -> None:
            key, value = self.value(node.key), self.value(node.value)
            if is_sure:
                self.put(table, key, value, node.key.lineno)
            else:
                self.obscure(table, Unknown(node.lineno))

        self._comprehend(node.generators, take)
        return table

    def _comprehend(self, generators: list[ast.comprehension], take: Callable[[bool], None]) -> None:
        outer = self.frame
        self.frame = Frame(dict(outer.env), outer.parent)
        try:
            self._go_through(generators, take, is_sure=True)
        finally:
            self.frame = outer

    def _go_through(self, generators: list[ast.comprehension], take: Callable[[bool], None], *, is_sure: bool) -> None:
        """Call `take` in each round with its names set, True where it is sure to take place."""
        if not generators:
            take(is_sure)
            return
        first, *others = generators
        for item, comes in self.rounds(first.iter, first.target):
            self.bind(first.target, item)
            tests = [self.test(condition) for condition in first.ifs]
            if False not in tests:
                self._go_through(others, take, is_sure=is_sure and comes and None not in tests)

    def rounds(self, iterable: ast.expr, target: ast.expr) -> list[tuple[Value, bool]]:
        """The items that a loop goes through, each with whether it is sure to come; an unknown one stands for many.

        Where the loop's variable is a selector of this run and nothing else has its key, only the items with that key
        come. Whatever stands for others comes twice, so that what grows from round to round isn't taken for known.
        """
        found, line = self.value(iterable), iterable.lineno
        if not isinstance(found, Table | Listing | tuple) or (not isinstance(found, tuple) and found.rest):
            return [(Unknown(line), any(name in self.bindings for name in names_of(target))), (Unknown(line), False)]
        items = list(elements(found))
        num_items = len(items)
        names = names_of(target)
        for place, name in enumerate(names):
            keys = [item[place] if isinstance(item, tuple) and len(item) == len(names) > 1 else item for item in items]
            bound = self.bindings.get(name)
            if bound is None:
                self.clues.note(name, keys, line)
            elif self._drives() and any(isinstance(key, str) and key in self.clues.keys for key in keys):
                items = [item for item, key in zip(items, keys, strict=True) if is_unknown(key) or key == bound]
                self.meet(bound, Met.HIT if items else Met.ASKED)
        rounds = [(item, True) for item in items]
        return rounds if len(items) == num_items else rounds + [(item, False) for item in items[-1:]]

    def _drives(self) -> bool:
        """Whether a loop over keys is what does something for each of them, not one that looks for a key."""
        has_key = any(isinstance(self.seeded(value), Seed) for value in self.frame.env.values())
        return len(self.followed) <= 1 and not has_key
