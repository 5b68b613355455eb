"""What is no file of lines as one: a JSON array, a compressed file, the standard input. It knows nothing of records."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import ijson
import orjson

from omnicap_cli.core.files.atomic import remove_leftovers, writing
from omnicap_cli.core.files.file_state import FileState
from omnicap_cli.datasets.streams import COMPRESSION, open_decompressed
from omnicap_cli.errors import OmnicapError, OptionError, UsageError

_STEP_BYTES: Final = 4 << 20
_COMPRESSION: Final = COMPRESSION | {".bz2": "bz2"}
_BOM: Final = b"\xef\xbb\xbf"


def unpacked_file(source: str, notes: Path, name: str) -> Path:
    """A file with a record on each line: the one at `source`, or a copy in `notes`, made where there is none yet.

    Raises OptionError or UsageError where the data can't be read, JournalWriteError where the copy can't be written,
    and OmnicapError where the data changes meanwhile.
    """
    path, copy = Path(source), notes / f"{name}.lines.jsonl"
    note = notes / f"{name}.lines.json"  # of which file, in which state, the copy was made
    try:
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "is no file that can be read"
            raise OptionError("DATA", source, problem, hint="give a file of JSON lines, a JSON array, or -")
        if not _is_packed(path):
            return path
        state = _state_of(path)
        if not copy.exists() or _read_state(note) != state:
            note.unlink(missing_ok=True)
            with path.open("rb", buffering=0) as file:
                write_lines(source, file, copy)
            if _state_of(path) != state:
                raise OmnicapError(f"{source} changed while it was read", hint="Run it again when nothing writes it.")
            with writing(note) as written:
                written.write(json.dumps(state).encode())  # orjson takes no path that isn't UTF-8
    except OSError as error:
        raise OptionError("DATA", source, f"can't be read: {error.strerror}") from error
    return copy


def write_lines(source: str, file: BinaryIO, copy: Path) -> None:
    """Write what is in `file`, which `source` names, as lines to `copy`. Raises as `unpacked_file`."""
    remove_leftovers(copy, is_locked=True)
    with writing(copy) as written:
        written.writelines(_blocks(source, file))


def _is_packed(path: Path) -> bool:
    """Whether it is compressed, or all of it is one JSON array."""
    if path.suffix.lower() in _COMPRESSION:
        return True
    if path.suffix.lower() != ".json":
        return False
    with path.open("rb") as file:
        return _begins_array(file.read(_STEP_BYTES))


def _state_of(path: Path) -> dict[str, Any]:
    num_bytes, mtime_ns = FileState.of(path.stat()).content
    return {"path": str(path.resolve()), "num_bytes": num_bytes, "mtime_ns": mtime_ns}


def _read_state(note: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(note.read_bytes())
    return None


def _blocks(source: str, file: BinaryIO) -> Iterator[bytes]:
    """Of a file of lines. Raises OptionError or UsageError where the data can't be read to its end."""
    try:
        with open_decompressed(file, _COMPRESSION.get(Path(source).suffix.lower())) as content:
            yield from _blocks_of_lines(io.BufferedReader(content, _STEP_BYTES))
    except ijson.JSONError as error:
        said = error.args[0] if error.args else ""  # bytes, if it is of the parser, and with a picture below
        reason = (said.decode(errors="replace") if isinstance(said, bytes) else str(said)).partition("\n")[0]
        message = f"{source} is no JSON array to its end: {reason}"
        raise UsageError(message, hint="Give one record a line.") from error
    except TypeError as error:  # of orjson, which writes less than there is in the world
        message = f"{source} holds a record that can't be written on a line: {error}"
        raise UsageError(message, hint="Give one record a line.") from error
    except OSError as error:
        if error.errno is not None:
            raise OptionError("DATA", source, f"can't be read: {error.strerror or error}") from error
        raise UsageError(f"{source} is damaged: {error}", hint="Copy or download it again.") from error


def _blocks_of_lines(file: io.BufferedReader) -> Iterator[bytes]:
    """Lines as they are, in blocks; each element of a JSON array as a line."""
    head = file.peek(_STEP_BYTES)
    if not _begins_array(head):
        while block := file.read(_STEP_BYTES):
            yield block
        return
    file.read(len(_BOM) if head.startswith(_BOM) else 0)
    for record in ijson.items(file, "item", use_float=True):
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _begins_array(head: bytes) -> bool:
    return head.removeprefix(_BOM).lstrip().startswith(b"[")
