"""What the system says of a file that can't be read, as an error of that item. It reads nothing itself."""

from __future__ import annotations

import errno
import os

from omnicap_cli.errors import AccessError, DecodeError, ItemError, LinkLoopError, NotFoundError


def unreadable(error: Exception) -> ItemError:
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
