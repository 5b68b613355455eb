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
_STDIN: Final = "-"


class Unpacked:
    """The data that `source` names (a path, or `-`), where needed unpacked into the folder `notes`."""

    def __init__(self, source: str, notes: Path, name: str) -> None:
        self.is_stdin = source == _STDIN
        self._source, self._path = source, Path(source)
        self._copy = notes / f"{name}.{'stdin' if self.is_stdin else 'lines'}.jsonl"
        self._note = notes / f"{name}.lines.json"  # of which file, in which state, the copy was made

    def lines(self, stdin: BinaryIO) -> Path:
        """A file with a record on each line: the one that is named, or a copy, which is made where there is none.

        Raises OptionError or UsageError where the data can't be read, JournalWriteError where the copy can't be
        written, and OmnicapError where the data changes meanwhile.
        """
        if self.is_stdin:
            self._write_copy(stdin)
            return self._copy
        try:
            if not self._path.is_file():
                problem = "is a folder" if self._path.is_dir() else "is no file that can be read"
                raise OptionError("DATA", self._source, problem, hint="give a file of JSON lines, a JSON array, or -")
            if not self._is_packed():
                return self._path
            state = self._state()
            if not self._copy.exists() or self._state_of_copy() != state:
                self._note.unlink(missing_ok=True)
                self._write_copy(stdin)
                if self._state() != state:
                    hint = "Run it again when nothing writes it."
                    raise OmnicapError(f"{self._source} changed while it was read", hint=hint)
                self._write_note(state)
        except OSError as error:
            raise OptionError("DATA", self._source, f"can't be read: {error.strerror}") from error
        return self._copy

    def discard(self) -> None:
        """Remove the copy."""
        with contextlib.suppress(OSError):
            self._copy.unlink()

    def _is_packed(self) -> bool:
        """Whether it is compressed, or all of it is one JSON array."""
        if self._path.suffix.lower() in _COMPRESSION:
            return True
        if self._path.suffix.lower() != ".json":
            return False
        with self._path.open("rb") as file:
            return _begins_array(file.read(_STEP_BYTES))

    def _state(self) -> dict[str, Any]:
        num_bytes, mtime_ns = FileState.of(self._path.stat()).content
        return {"path": str(self._path.resolve()), "num_bytes": num_bytes, "mtime_ns": mtime_ns}

    def _state_of_copy(self) -> Any:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._note.read_bytes())
        return None

    def _write_copy(self, stdin: BinaryIO) -> None:
        remove_leftovers(self._copy, is_locked=True)
        with writing(self._copy) as file:
            file.writelines(self._blocks(stdin))

    def _write_note(self, state: dict[str, Any]) -> None:
        with writing(self._note) as file:
            file.write(json.dumps(state).encode())  # orjson takes no path that isn't UTF-8

    def _blocks(self, stdin: BinaryIO) -> Iterator[bytes]:
        """Of a file of lines. Raises OptionError or UsageError where the data can't be read to its end."""
        try:
            with contextlib.ExitStack() as stack:
                file: Any = stdin
                if not self.is_stdin:
                    method = _COMPRESSION.get(self._path.suffix.lower())
                    file = stack.enter_context(self._path.open("rb", buffering=0))
                    file = stack.enter_context(open_decompressed(file, method))
                yield from _blocks_of_lines(io.BufferedReader(file, _STEP_BYTES))
        except ijson.JSONError as error:
            said = error.args[0] if error.args else ""  # bytes, if it is of the parser, and with a picture below
            reason = (said.decode(errors="replace") if isinstance(said, bytes) else str(said)).partition("\n")[0]
            message = f"{self._source} is no JSON array to its end: {reason}"
            raise UsageError(message, hint="Give one record a line.") from error
        except TypeError as error:  # of orjson, which writes less than there is in the world
            message = f"{self._source} holds a record that can't be written on a line: {error}"
            raise UsageError(message, hint="Give one record a line.") from error
        except OSError as error:
            if error.errno is not None:
                raise OptionError("DATA", self._source, f"can't be read: {error.strerror or error}") from error
            raise UsageError(f"{self._source} is damaged: {error}", hint="Copy or download it again.") from error


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
