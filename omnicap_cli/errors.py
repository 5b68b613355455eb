"""Every error that a user can meet. It knows no terminal: `app` turns these into messages and exit codes.

OmnicapError                 the run can't go on (exit 1)
├── UsageError               the command line is wrong (exit 2)
│   └── OptionError          one option or configuration key has a wrong value
├── JournalError             the output can't be read or written
│   ├── JournalLockedError   another process is writing it
│   └── JournalWriteError    disk full, read-only, gone
├── EngineError              what is wrong with the engine, not with one item
│   └── MissingExtraError    a package that the engine needs is not installed
└── ItemError                what is wrong with one item: it becomes an error record, and the run goes on
    ├── NotFoundError        no such file, dangling link
    ├── LinkLoopError        a link that leads to itself
    ├── AccessError          no permission, not a regular file
    ├── EmptyFileError       zero bytes
    ├── DownloadError        a URL that can't be fetched
    ├── UnsupportedError     not a format that is read here
    ├── DecodeError          damaged or truncated
    ├── TooLargeError        more pixels or bytes than the limit allows
    ├── AspectRatioError     a picture too long for its width, or too wide for its height
    ├── EncryptedError       a PDF that asks for a password
    ├── ManifestError        a line of a manifest that names no item
    ├── DuplicateIdError     two different items with one id
    ├── OutOfMemoryError     the machine has too little memory for it
    ├── InferenceError       the model failed on this item
    └── WorkerCrashedError   the process that worked on it died
"""

from __future__ import annotations

from typing import Any, Final

ITEMS_FAILED: Final = 3  # the exit code of what is done, but for some items


class OmnicapError(Exception):
    """What happened, and in `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OmnicapError):
    """The command line is wrong."""

    exit_code = 2


class OptionError(UsageError):
    """`option` got a value that can't be used: both are named in the message."""

    def __init__(self, option: str, value: object, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{option}: {value!r} {problem}", hint=hint)
        self.option = option
        self.value = value
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: exceptions are made again from their message alone."""
        return _option_error, (self.option, self.value, self.problem, self.hint)


def _option_error(option: str, value: object, problem: str, hint: str | None) -> OptionError:
    return OptionError(option, value, problem, hint=hint)


class JournalError(OmnicapError):
    """The output can't be read or written."""


class JournalLockedError(JournalError):
    """Another process is writing the same journal."""


class JournalWriteError(JournalError):
    """The journal can't be written: disk full, read-only, gone."""


class EngineError(OmnicapError):
    """What is wrong with the engine itself; it stops the run."""


class MissingExtraError(EngineError):
    """A package that the engine needs is not installed."""


class ItemError(OmnicapError):
    """What is wrong with one item. Its message stands in a record, so it is whole without a hint."""

    @property
    def kind(self) -> str:
        """The name that the error record carries."""
        return type(self).__name__


class NotFoundError(ItemError):
    """No such file, or a link whose target is gone."""


class LinkLoopError(ItemError):
    """A symbolic link that leads to itself."""


class AccessError(ItemError):
    """No permission to read, or not a regular file."""


class EmptyFileError(ItemError):
    """Zero bytes."""


class DownloadError(ItemError):
    """A URL that can't be fetched."""


class UnsupportedError(ItemError):
    """Not a format that is read here."""


class DecodeError(ItemError):
    """Damaged or truncated."""


class TooLargeError(ItemError):
    """More pixels or bytes than the limit allows."""


class AspectRatioError(ItemError):
    """A picture too long for its width, or too wide for its height, for the model."""


class EncryptedError(ItemError):
    """A PDF that asks for a password."""


class ManifestError(ItemError):
    """A line of a manifest that names no item."""


class DuplicateIdError(ItemError):
    """Two different items with one id."""


class OutOfMemoryError(ItemError):
    """The machine has too little memory for this item."""


class InferenceError(ItemError):
    """The model failed on this item."""


class WorkerCrashedError(ItemError):
    """The process that worked on the item died, twice."""
