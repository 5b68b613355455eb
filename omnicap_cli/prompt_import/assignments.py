"""What a script gives names to: assignments, imports, `del`. It knows no branches.

A dict that is changed where it isn't sure that the change takes place is not known any more.
"""

from __future__ import annotations

import ast

from omnicap_cli.prompt_import.calls import Calls
from omnicap_cli.prompt_import.expressions import named, unpacked
from omnicap_cli.prompt_import.values import Class, Imported, Instance, Listing, Table, Unknown, Value


class Assignments(Calls):
    """A reader of statements that change names."""

    def _assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self.assign(target, value)

    def _annassign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.assign(node.target, self.value(node.value))

    def _augassign(self, node: ast.AugAssign) -> None:
        there, value = self.value(node.target), self.value(node.value)
        if isinstance(there, Listing) and isinstance(node.op, ast.Add):
            if self.may_change(there, node.lineno):
                self.extend(there, value, node.lineno)
        elif isinstance(there, Table) and isinstance(node.op, ast.BitOr):
            if self.may_change(there, node.lineno):
                self.update(there, value, node.lineno)
        elif isinstance(there, Table | Listing):
            self.spoil(there, node.lineno)
        else:
            is_sum = isinstance(node.op, ast.Add)
            self.assign(node.target, self.added([there, value], node.lineno) if is_sum else Unknown(node.lineno))

    def assign(self, target: ast.expr, value: Value) -> None:
        """Give `target` a value: a name, a row of names, a key of a dict, an attribute."""
        if isinstance(target, ast.Name):
            self._set_name(target.id, value, target.lineno)
        elif isinstance(target, ast.Tuple | ast.List):
            for each, part in zip(target.elts, unpacked(value, len(target.elts), target.lineno), strict=True):
                self.assign(each, part)
        elif isinstance(target, ast.Subscript):
            self._set_key(self.value(target.value), self.value(target.slice), value, target.lineno)
        elif isinstance(target, ast.Attribute):
            base = self.value(target.value)
            if isinstance(base, Instance | Class):
                self._set_key(base.attributes, target.attr, named(value, target.attr), target.lineno)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, Unknown(target.lineno))

    def _set_name(self, name: str, value: Value, line: int) -> None:
        if name in self.frame.globals and self.frame.parent:
            self._set_outside(name, line)
        else:
            self.frame.env[name] = named(value, name)

    def _set_outside(self, name: str, line: int) -> None:
        """A name of a function around this one, or of the module: when this is called, and how often, nobody knows."""
        frame = self.frame.parent
        while frame:
            if name in frame.env or frame.parent is None:
                is_news = frame.parent is None and not isinstance(frame.env.get(name), Unknown)
                self.clues.num_spoiled += is_news
                frame.env[name] = Unknown(line, name)
            frame = frame.parent

    def _set_key(self, box: Value, key: Value, value: Value, line: int) -> None:
        if isinstance(box, Table):
            if not self._is_there(box, key, value) and self.may_change(box, line):
                self.put(box, key, value, line)
        elif isinstance(box, Listing):
            self.spoil(box, line)

    def _is_there(self, table: Table, key: Value, value: Value) -> bool:
        """Whether a change changes nothing: then it doesn't matter whether it takes place."""
        return isinstance(key, str) and isinstance(value, str) and table.items.get(key) == value

    def _delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.frame.env.pop(target.id, None)
            elif isinstance(target, ast.Subscript):
                box = self.value(target.value)
                if isinstance(box, Table | Listing):
                    self.spoil(box, node.lineno)

    def _global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.frame.globals.update(node.names)

    _nonlocal = _global

    def _import(self, node: ast.Import) -> None:
        for each in node.names:
            name = each.name if each.asname else each.name.partition(".")[0]
            self.frame.env[each.asname or name] = Imported(name, node.lineno)

    def _importfrom(self, node: ast.ImportFrom) -> None:
        for each in node.names:
            self.frame.env[each.asname or each.name] = Imported(f"{node.module or ''}.{each.name}", node.lineno)
