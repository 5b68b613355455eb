"""What a script's constants, its tables and its chains of `if KEY == "…"` or `match` say of prompts.

It follows no call, no loop and no other condition: a text that hangs on one is given as the line that builds it. It
knows no catalogue.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from omnicap_cli.core.prompts.catalogue import is_name
from omnicap_cli.core.prompts.script_import.places import ROLES, SYSTEM, role_of
from omnicap_cli.core.prompts.script_import.script import assigned_pairs, name_of, names_bound_in
from omnicap_cli.errors import OmnicapError

_READING_METHODS: Final = {"copy", "get", "items", "keys", "values"}
_LISTING: Final = {"enumerate", "iter", "join", "len", "list", "set", "sorted", "tuple"}
_LOGGING: Final = {"debug", "error", "info", "log", "print", "warning", "write"}
_MAX_LENGTH: Final = 20_000
_MAX_DEPTH: Final = 5
_MAX_VALUES: Final = 10_000


class BuiltAt(NamedTuple):
    """In place of a text that only a run of the script would tell: the line that builds it."""

    line: int


Text: TypeAlias = "str | BuiltAt"
Variables: TypeAlias = "dict[str, Text]"


class KeyedText(NamedTuple):
    """A text, the keys that lead to it, outermost first, and its table or the function with its chain as `holder`."""

    keys: tuple[str, ...]
    role: str | None
    text: Text
    line: int
    holder: str


class KeyList(NamedTuple):
    """The keys that a table lists for `kind`, with their lines."""

    kind: str
    keys: dict[str, int]


class ScriptTexts(NamedTuple):
    """What is read of a script. `shared_texts` are those without a key, by role."""

    keyed_texts: list[KeyedText]
    key_lists: list[KeyList]
    shared_texts: dict[str, list[Text]]
    speaks_of_system: bool


class _Position(NamedTuple):
    """Where a value stands: its keys, what holds it, and what makes it doubtful."""

    keys: tuple[str, ...]
    holder: str
    role: str | None = None
    line: int = 0
    doubt: BuiltAt | None = None


class ScriptReader:
    """Reads what a script says of prompts."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree, self._nodes = tree, list(ast.walk(tree))
        pairs = (pair for node in self._nodes for pair in assigned_pairs(node))
        self._pairs = sorted(pairs, key=lambda pair: pair[0].lineno)
        self._num_bindings = Counter(names_bound_in(tree))
        self._constants = {  # a name that is bound once has no other value
            target.id: value
            for target, value in self._pairs
            if isinstance(target, ast.Name) and self._num_bindings[target.id] == 1
        }
        self._pair_roles = self._roles_of_pairs()
        self._texts: dict[str, Text] = {}  # of constants
        self._holders: set[str] = set()  # tables and functions that have texts
        self._holders_of: dict[str, set[str]] = {}  # by variable, the holders of its texts
        self._in_branches: set[ast.AST] = set()
        self._fixed_names: set[str] = set()  # variables that are a text and remain it
        self._doubt: BuiltAt | None = None  # where a function may have returned before
        self._num_values = 0
        self._keyed_texts: list[KeyedText] = []
        self._key_lists: list[KeyList] = []
        self._shared_texts: dict[str, list[Text]] = {role: [] for role in ROLES}

    def read_texts(self) -> ScriptTexts:
        """First tables, then chains, then whether their texts are taken as they stand. Raises OmnicapError for many."""
        for target, value in self._pairs:
            if name := name_of(target):
                self._read_assigned(name, value)
        self._read_block(self._tree.body, _Position((), "<module>"), {})
        altered: dict[str, BuiltAt] = {}
        for name, line in self._alterations():
            altered.setdefault(name, BuiltAt(line))
        texts = [altered.get(each.holder, altered.get(each.role or "", each.text)) for each in self._keyed_texts]
        words = (getattr(node, name, None) for node in self._nodes for name in ("id", "arg", "value"))
        return ScriptTexts(
            [each._replace(text=text) for each, text in zip(self._keyed_texts, texts, strict=True)],
            self._key_lists,
            {role: [altered.get(f"shared {role}", text) for text in self._shared_texts[role]] for role in ROLES},
            any(is_name(word) and role_of(str(word)) == SYSTEM for word in words),
        )

    def _roles_of_pairs(self) -> tuple[str | None, str | None]:
        """Which text of a pair is which, as the script takes its pairs apart."""
        targets = [node.elts for node in self._nodes if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store)]
        orders = {tuple(role_of(name_of(each)) for each in target) for target in targets}
        first, *others = [order for order in orders if set(order) == set(ROLES) and len(order) == 2] or [(None, None)]
        return (None, None) if others else (first[0], first[1])

    def _text(self, node: ast.expr, variables: Variables) -> Text:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name) if name in variables:
                return variables[name]
            case ast.Name(id=name) if name in self._constants:
                if name not in self._texts:
                    self._texts[name] = BuiltAt(node.lineno)  # for a name within its own value
                    self._texts[name] = self._text(self._constants[name], {})
                return self._texts[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined_text([left, right], node.lineno, variables)
            case ast.JoinedStr(values=parts):
                return self._joined_text(parts, node.lineno, variables)
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self._text(value, variables)
        return BuiltAt(node.lineno)

    def _joined_text(self, parts: list[ast.expr], line: int, variables: Variables) -> Text:
        self._count_value()
        texts = [self._text(part, variables) for part in parts]
        built = next((text for text in texts if isinstance(text, BuiltAt)), None)
        joined = "".join(text for text in texts if isinstance(text, str))
        return built or (joined if len(joined) <= _MAX_LENGTH else BuiltAt(line))

    def _words(self, node: ast.expr) -> dict[str, int]:
        """The items of a list of nothing but names, with their lines; else nothing."""
        node = self._constants.get(node.id, node) if isinstance(node, ast.Name) else node
        items = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else []
        texts = {self._text(item, {}): item.lineno for item in items}
        return {text: line for text, line in texts.items() if isinstance(text, str)} if all(map(is_name, texts)) else {}

    def _read_assigned(self, name: str, value: ast.expr) -> None:
        """A table, or a text for all keys where the name surely says what it is."""
        if isinstance(value, ast.Dict | ast.List | ast.Tuple):
            doubt = BuiltAt(value.lineno) if self._num_bindings[name] > 1 else None
            self._read_value(value, _Position((), name, role_of(name), doubt=doubt), {})
        elif isinstance(value, ast.DictComp) or (isinstance(value, ast.Call) and name_of(value) == "dict"):
            self._add_text(BuiltAt(value.lineno), _Position((name,), name, role_of(name), value.lineno))
        elif role := role_of(name, is_sure=True):
            self._shared_texts[role].append(self._text(value, {}))

    def _read_value(self, node: ast.expr, at: _Position, variables: Variables) -> None:
        self._count_value()
        literal = self._constants.get(node.id, node) if isinstance(node, ast.Name) else node
        words = self._words(literal) if at.keys else {}
        if isinstance(literal, ast.Dict):
            self._read_table(literal, at)
        elif words:
            self._key_lists.append(KeyList(at.keys[-1], words))
        elif isinstance(literal, ast.List | ast.Tuple) and len(literal.elts) == 2:
            for role, part in zip(self._pair_roles, literal.elts, strict=True):
                self._add_text(self._text(part, variables), at._replace(role=role))
        elif not isinstance(literal, ast.Constant) or isinstance(literal.value, str):
            self._add_text(self._text(node, variables), at)

    def _read_table(self, table: ast.Dict, at: _Position) -> None:
        keys = [self._text(key or value, {}) for key, value in zip(table.keys, table.values, strict=True)]
        if {"role", "content"} <= set(keys) or len(at.keys) == _MAX_DEPTH:
            return  # a message, or no table of prompts
        built = next((key for key in keys if isinstance(key, BuiltAt)), None)  # it may be any of the others
        names_roles = any(isinstance(key, str) and role_of(key, is_sure=True) for key in keys)
        at = at._replace(doubt=at.doubt or built)
        for key, value in zip(keys, table.values, strict=True):
            if isinstance(key, str):
                role = role_of(key) if names_roles else None
                inner = at._replace(role=role) if role else at._replace(keys=(*at.keys, key))
                self._read_value(value, inner._replace(line=value.lineno), {})

    def _add_text(self, text: Text, at: _Position) -> None:
        if at.keys and (at.role or isinstance(text, str)):
            self._holders.add(at.holder)
            text = at.doubt or self._doubt or text
            self._keyed_texts.append(KeyedText(at.keys, at.role, text, at.line, at.holder))

    def _count_value(self) -> None:
        self._num_values += 1
        if self._num_values > _MAX_VALUES:
            hint = "Give it the part that holds the prompts, in a file alone."
            raise OmnicapError(f"more than {_MAX_VALUES:,} texts and statements, too many for prompts", hint=hint)

    def _read_block(self, body: list[ast.stmt], at: _Position, variables: Variables) -> None:
        """Statements one after another; `variables` are those that they meet, and then those that they leave."""
        for node in body:
            self._count_value()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                outer, self._doubt = self._doubt, None
                self._read_block(node.body, _Position((), node.name, role_of(node.name)), {})
                self._doubt = outer
            elif isinstance(node, ast.If | ast.Match):
                self._read_chain(node, at, variables)
            elif isinstance(node, ast.Return):
                self._read_return(node, at, variables)
            else:
                self._read_statement(node, at, variables)

    def _read_statement(self, node: ast.stmt, at: _Position, variables: Variables) -> None:
        """Within a branch, what stands in a loop or the like is not certain."""
        doubt = at.doubt or (BuiltAt(node.lineno) if at.keys else None)
        parts = [node, *getattr(node, "handlers", [])]
        for block in (getattr(part, name, []) for part in parts for name in ("body", "orelse", "finalbody")):
            self._read_block(block, at._replace(doubt=doubt), dict(variables))
        texts = {name_of(target): self._text(value, variables) for target, value in assigned_pairs(node)}
        variables.update({name: texts.get(name, BuiltAt(node.lineno)) for name in names_bound_in(node)})

    def _read_return(self, node: ast.Return, at: _Position, variables: Variables) -> None:
        """The texts that a branch returns, unless it returns what was made of its variables."""
        is_answer = isinstance(node.value, ast.Call) and any(role_of(name, is_sure=True) for name in variables)
        if at.keys and node.value and not is_answer:
            self._read_value(node.value, at, variables)
        elif at.doubt and not (node.value is None or (isinstance(node.value, ast.Constant) and not node.value.value)):
            self._doubt = at.doubt

    def _read_chain(self, node: ast.If | ast.Match, at: _Position, variables: Variables) -> None:
        doubt = None
        for keys, body, doubt in self._branches(node):
            inner = at._replace(doubt=at.doubt or doubt)
            for key, line in keys.items():
                self._read_branch(body, inner._replace(keys=(*at.keys, key), line=line), variables)
            if keys:
                self._in_branches.update(each for statement in body for each in ast.walk(statement))
            else:
                self._read_block(body, inner, dict(variables))
        for name in names_bound_in(node):
            variables.pop(name, None)
            if doubt:
                variables[name] = doubt

    def _branches(self, node: ast.If | ast.Match) -> Iterator[tuple[dict[str, int], list[ast.stmt], BuiltAt | None]]:
        """The keys of each branch, none for those that are left, and the condition that makes it doubtful."""
        is_of_key = isinstance(getattr(node, "subject", None), ast.Name | ast.Attribute)
        doubt = None if is_of_key or isinstance(node, ast.If) else BuiltAt(node.lineno)
        for case in node.cases if isinstance(node, ast.Match) else []:
            keys = self._compared_keys(case.pattern)
            if case.guard or not (keys or isinstance(case.pattern, ast.MatchAs)):
                doubt = BuiltAt(case.pattern.lineno)
            yield keys, case.body, doubt
        while isinstance(node, ast.If):
            keys, subject = self._compared_keys(node.test), getattr(node.test, "left", None)
            if not (keys and isinstance(subject, ast.Name | ast.Attribute)):
                doubt = doubt or BuiltAt(node.lineno)
            yield {} if isinstance(subject, ast.Name) and subject.id == "__name__" else keys, node.body, doubt
            if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If):
                yield {}, node.orelse, doubt
                break
            node = node.orelse[0]

    def _compared_keys(self, test: ast.expr | ast.pattern) -> dict[str, int]:
        match test:
            case ast.Compare(ops=[ast.Eq()], comparators=[other]) | ast.MatchValue(value=other):
                return self._words(ast.Tuple(elts=[other]))
            case ast.Compare(ops=[ast.In()], comparators=[other]):
                return self._words(other)
            case ast.BoolOp(values=tests) | ast.MatchOr(patterns=tests):
                return {key: line for each in tests for key, line in self._compared_keys(each).items()}
        return {}

    def _read_branch(self, body: list[ast.stmt], at: _Position, variables: Variables) -> None:
        """What a branch returns or assigns; of one that leads to further branches, what these do."""
        own, num_before = dict(variables), len(self._keyed_texts)
        self._read_block(body, at, own)
        bound = {name for name in own if own[name] is not variables.get(name)}
        is_parted = any(len(each.keys) > len(at.keys) for each in self._keyed_texts[num_before:])
        if is_parted or isinstance(body[-1], ast.Raise | ast.Continue) or not any(map(role_of, bound)):
            return
        kept = sorted(name for name in own if name in bound or self._num_bindings[name] > 1)
        sure = {role_of(name, is_sure=True) for name in kept}
        for name in kept:
            if role := role_of(name, is_sure=role_of(name) in sure):
                self._add_text(own[name], at._replace(role=role))

    def _alterations(self) -> Iterator[tuple[str, int]]:
        """The holders and roles of which the script doesn't take the texts as they stand, each with a line."""
        self._fixed_names = {name for name, value in self._constants.items() if isinstance(self._text(value, {}), str)}
        for target, value in self._pairs:
            for name in names_bound_in(target) if name_of(value) in self._holders else []:
                self._holders_of.setdefault(name, set()).add(name_of(value))
        passed: set[ast.AST] = set()
        for node in self._nodes:  # a node comes before its parts
            is_said = isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and name_of(node.func) in _LOGGING)
            harmless = node if is_said else getattr(node, "test", None)  # no model gets what is printed or tested
            passed.update(ast.walk(harmless) if isinstance(harmless, ast.AST) else ())
            for part in self._remade_parts(node) if node not in passed else ():
                for each in ast.walk(part):
                    yield from ((holder, part.lineno) for holder in self._sources(each, is_whole=each is part))
                passed.update(ast.walk(part))
        yield from self._replacements()

    def _replacements(self) -> Iterator[tuple[str, int]]:
        """The same where a variable that holds a picked text is given another value."""
        holding: set[str] = set()
        for target, value in self._pairs:
            names = set(names_bound_in(target)) - self._fixed_names
            if name_of(value) in self._holders or target in self._in_branches:
                holding |= names
                continue
            is_call = isinstance(value, ast.Call) and any(role_of(name, is_sure=True) for name in names)
            for each in ast.walk(target) if names & holding else ast.walk(value) if is_call else ():
                yield from ((source, target.lineno) for source in self._sources(each))

    def _sources(self, node: ast.AST, *, is_whole: bool = False) -> set[str]:
        """Where the texts of a node may come from: from what it picks, or from all that have the role it speaks of."""
        name = name_of(node)
        if name in self._holders:
            return {name} if is_whole or isinstance(node, ast.Subscript | ast.Call) else set()
        if not isinstance(node, ast.Name | ast.Attribute) or node in self._in_branches:
            return set()
        role = role_of(name, is_sure=True) if isinstance(node, ast.Name) else None
        of_role = {f"shared {role}"} if name in self._fixed_names else {f"shared {role}", str(role)}
        return of_role if role else self._holders_of.get(name, set())

    def _remade_parts(self, node: ast.AST) -> Iterator[ast.expr]:
        """What a node makes something else of, chooses between, or hands over to be changed."""
        match node:
            case ast.BinOp() | ast.BoolOp() | ast.JoinedStr() | ast.Call(func=ast.Attribute(attr="join")):
                yield node
            case ast.IfExp(body=one, orelse=other) | ast.AugAssign(target=one, value=other):
                yield from (one, other)
            case ast.Subscript(value=value, ctx=ast.Store() | ast.Del()):
                yield value
            case ast.Call(func=function, args=arguments, keywords=keywords) if name_of(function) not in _LISTING:
                values = [*arguments, *(each.value for each in keywords if each.arg != "choices")]
                yield from (each for each in values if isinstance(each, ast.Name) and each.id in self._holders)
                owner = getattr(function, "value", None) if name_of(function) not in _READING_METHODS else None
                if isinstance(owner, ast.Name | ast.Attribute | ast.Subscript):
                    yield owner
