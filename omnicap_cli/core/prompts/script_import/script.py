"""A Python file as a syntax tree, with what its nodes name. It knows Python's rules, nothing of prompts."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omnicap_cli.core.files.words import printable
from omnicap_cli.errors import OmnicapError, OptionError

MAX_SCRIPT_BYTES: Final = 2_000_000  # a syntax tree may take 500 times as much memory
_MAX_SHOWN: Final = 80
_CHANGING_METHODS: Final = {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
_PICKING_METHODS: Final = {"get", "items", "values"}
HINT: Final = "Give the inference script that was published with the weights."


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A file that was parsed; `lines` are those that Python counts."""

    tree: ast.Module
    lines: list[str]

    def shown(self, line: int) -> str:
        """What stands on a line (from 1), cut to a length for messages."""
        text = self.lines[line - 1].strip() if line <= len(self.lines) else ""
        return printable(text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…")


def read_script(path: Path) -> Script:
    """Parse a file of at most 2 MB, in the encoding that it declares; nothing in it runs. Raises OmnicapError."""
    content = _read_content(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks on somebody else's script
            tree = ast.parse(content, filename=str(path))
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else str(path)
        raise OmnicapError(f"{place}: not Python 3: {error.msg}", hint=HINT) from error
    except ValueError as error:  # NUL bytes, before Python 3.12
        raise OmnicapError(f"{path}: not Python 3: {error}", hint=HINT) from error
    except (RecursionError, MemoryError) as error:
        raise OmnicapError(f"{path}: nested too deeply to be read", hint=HINT) from error
    return Script(tree=tree, lines=re.split(r"\r\n|\r|\n", content.decode(encoding, "replace")))


def _read_content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise OptionError("FILE", str(path), "is not a file", hint=HINT)
        with path.open("rb") as file:
            content = file.read(MAX_SCRIPT_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = getattr(error, "strerror", None) or error
        raise OptionError("FILE", str(path), f"can't be read: {problem}", hint=HINT) from error
    if len(content) > MAX_SCRIPT_BYTES:
        raise OmnicapError(f"{path}: more than {MAX_SCRIPT_BYTES:,} bytes: not a script of prompts", hint=HINT)
    return content


def name_of(node: ast.AST) -> str:
    """The name or attribute that a node is, looks up or calls; empty where there is none."""
    while isinstance(node, ast.Call | ast.Subscript | ast.Await):
        node = node.func if isinstance(node, ast.Call) else node.value
        node = node.value if isinstance(node, ast.Attribute) and node.attr in _PICKING_METHODS else node
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def names_bound_in(node: ast.AST) -> list[str]:
    """The names that are bound, changed or deleted within a node, each as often as that happens."""
    nodes = [each for each in ast.walk(node) if not isinstance(each, ast.keyword)]
    names = [name_of(each) for each in nodes if isinstance(getattr(each, "ctx", None), ast.Store | ast.Del)]
    changed = [each for each in nodes if isinstance(each, ast.Attribute) and each.attr in _CHANGING_METHODS]
    names += [name_of(each.value) for each in changed]
    names += [getattr(each, field, "") for each in nodes for field in ("name", "asname", "arg", "rest")]
    return [name for name in names if name]


def assigned_pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Each target of an assignment with its value; tuples are taken apart where both are written as such."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value: ast.expr | None = getattr(node, "value", None)
    for target in targets:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            yield from zip(target.elts, value.elts, strict=True)
        elif value:
            yield target, value
