"""Opening a file, and what the system says of one that can't be read, as an error of that item."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from omnicap_cli.errors import AccessError, DecodeError, ItemError, LinkLoopError, NotFoundError


def file_status(path: str) -> os.stat_result:
    """What the system tells of a path, links followed. Raises an ItemError."""
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:
        raise unreadable_error(error) from error


def open_file(path: str, *, may_be_pipe: bool = False) -> BinaryIO:
    """A local file. Raises an ItemError where it can't be opened, or is a pipe or device, which may never end.

    What it is is asked before it is opened: that alone would take the reader from whoever writes into a pipe.
    """
    mode = file_status(path).st_mode
    if not (may_be_pipe or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder the system says best what is wrong
        raise AccessError("not a regular file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise unreadable_error(error) from error


def unreadable_error(error: Exception) -> ItemError:
    """The ItemError for what the system or a decoder said of a file."""
    if isinstance(error, FileNotFoundError):
        is_link = error.filename is not None and os.path.islink(error.filename)
        return NotFoundError("a link whose target is gone" if is_link else "no such file")
    if isinstance(error, PermissionError):
        return AccessError("no permission to read it")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return LinkLoopError("a link that leads to itself")
    if isinstance(error, OSError) and error.errno is not None:
        return AccessError(f"can't be read: {error.strerror}")
    return DecodeError(f"damaged: {error}")
