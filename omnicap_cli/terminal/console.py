"""The only writer: data to stdout, everything else to stderr. It knows terminals, and nothing of captions."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from omnicap_cli.errors import OmnicapError

_STYLES: Final = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "hint": "\x1b[36m", "bold": "\x1b[1m"}
_PLAIN: Final = "\x1b[0m"


class OutputClosedError(Exception):
    """Whoever read the standard output has had enough (`| head`): no error, but no reason to go on."""


@dataclass(slots=True)
class Console:
    """What may be said, and in which colours. `level` is 0 with --quiet, 1 by default, 2 and more with --verbose."""

    level: int = 1
    no_color: bool = False

    @property
    def data_is_terminal(self) -> bool:
        """Whether a person reads the standard output."""
        return sys.stdout.isatty()

    @property
    def data_is_file(self) -> bool:
        """Whether the standard output goes into a file: neither to a person nor to another command."""
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads the standard error."""
        return sys.stderr.isatty()

    def data(self, content: bytes) -> None:
        """Write to the standard output at once. Raises OutputClosedError if nobody reads it any more."""
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            _forget_stdout()
            raise OutputClosedError from error
        except OSError as error:
            _forget_stdout()
            raise OmnicapError(f"can't write the standard output: {error.strerror}") from error

    def text(self, line: str) -> None:
        """One line of text as data."""
        self.data(f"{line}\n".encode(errors="replace"))

    def info(self, message: str) -> None:
        """What a user likes to know."""
        if self.level >= 1:
            self._say(message)

    def detail(self, message: str) -> None:
        """What a user asked for with --verbose."""
        if self.level >= 2:
            self._say(message)

    def warning(self, message: str) -> None:
        """What a user should know, but the run goes on."""
        if self.level >= 1:
            self._say(f"{self._styled('warning', 'warning:')} {message}")

    def error(self, error: OmnicapError) -> None:
        """What ended the run, and what to do next."""
        self._say(f"{self._styled('error', 'error:')} {error.message}")
        if error.hint:
            first, *rest = error.hint.splitlines()
            self._say("\n".join([f"{self._styled('hint', 'hint:')} {first}", *(f"      {line}" for line in rest)]))

    def bold(self, text: str) -> str:
        """`text` in bold, if the standard output shows that."""
        return self._colour("bold", text) if self.data_is_terminal else text

    def _say(self, message: str) -> None:
        # a closed stderr is no reason to lose results; RuntimeError: a signal's message within another message
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stderr.write(message.encode(errors="backslashreplace").decode() + "\n")
            sys.stderr.flush()

    def _styled(self, style: str, text: str) -> str:
        return self._colour(style, text) if self.is_terminal else text

    def _colour(self, style: str, text: str) -> str:
        plain = self.no_color or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return text if plain else f"{_STYLES[style]}{text}{_PLAIN}"


def open_missing_streams() -> None:
    """Give a standard stream that was closed (`>&-`) to nowhere: else the next file that is opened gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def open_stdin() -> BinaryIO:
    """The standard input, unbuffered: a thread that waits in a buffered read would hold up the end of the process."""
    try:
        os.set_blocking(0, True)  # else "nothing yet" looks like the end
        return cast(BinaryIO, open(0, "rb", buffering=0, closefd=False))
    except OSError as error:
        raise OmnicapError(f"can't read the standard input: {error.strerror}") from error


def _forget_stdout() -> None:
    """Keep Python from failing once more when it flushes the standard output at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
