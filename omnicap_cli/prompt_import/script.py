"""A Python file as a syntax tree. It knows Python's rules of encoding and line ends, nothing of prompts."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omnicap_cli.core.files.words import printable
from omnicap_cli.errors import OmnicapError, OptionError

MAX_SCRIPT_BYTES: Final = 2_000_000  # a syntax tree may take 500 times as much memory
_MAX_SHOWN: Final = 80
_HINT: Final = "Give the inference script that was published with the weights."


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """`path` is as the user gave it; `lines` are those that Python counts."""

    path: Path
    tree: ast.Module
    lines: list[str]

    def shown(self, line: int) -> str:
        """What stands on a line (from 1), cut to a length for messages."""
        text = self.lines[line - 1].strip() if line <= len(self.lines) else ""
        return printable(text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…")


def read_script(path: Path) -> Script:
    """Parse a file of at most 2 MB, in the encoding that it declares; nothing in it runs. Raises OmnicapError."""
    content = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks on somebody else's script
            tree = ast.parse(content, filename=str(path))
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else str(path)
        raise OmnicapError(f"{place}: not Python 3: {error.msg}", hint=_HINT) from error
    except ValueError as error:  # NUL bytes, before Python 3.12
        raise OmnicapError(f"{path}: not Python 3: {error}", hint=_HINT) from error
    except (RecursionError, MemoryError) as error:
        raise OmnicapError(f"{path}: nested too deeply to be read", hint=_HINT) from error
    text = content.decode(encoding, "replace")
    return Script(path=path, tree=tree, lines=re.split(r"\r\n|\r|\n", text))


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise OptionError("FILE", str(path), "is not a file", hint=_HINT)
        with path.open("rb") as file:
            content = file.read(MAX_SCRIPT_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = getattr(error, "strerror", None) or error
        raise OptionError("FILE", str(path), f"can't be read: {problem}", hint=_HINT) from error
    if len(content) > MAX_SCRIPT_BYTES:
        raise OmnicapError(f"{path}: more than {MAX_SCRIPT_BYTES:,} bytes: not a script of prompts", hint=_HINT)
    return content
