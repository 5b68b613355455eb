"""Processes of one run that fail together: one that ends alone would leave the others waiting for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from torch import distributed

from omnicap_cli.errors import OmnicapError

T = TypeVar("T")


class PeerError(OmnicapError):
    """Another process of the run failed, and says itself why."""


def gather_from_all(value: T) -> list[T]:
    """`value` of every process, in their order; that of this one where there are no others. All have to come here."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every place is filled by now


def fail_in_all_processes(error: OmnicapError | None) -> None:
    """Raise `error`, or a PeerError where another process has one. All have to come here."""
    messages = gather_from_all(error.message if error else None)
    if error:
        raise error
    for number, message in enumerate(messages):
        if message is not None:
            raise PeerError(f"process {number} of the run failed: {message}")


@contextlib.contextmanager
def failing_in_all_processes() -> Iterator[None]:
    """A block that ends well in all processes or, with an OmnicapError, in none. All have to come to its end."""
    failure = None
    try:
        yield
    except OmnicapError as error:
        failure = error
    fail_in_all_processes(failure)
