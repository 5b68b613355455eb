"""What the system says of a file that can't be read, as an error of that item. It reads nothing itself."""

from __future__ import annotations

import errno

from omnicap_cli.errors import AccessError, DecodeError, ItemError, LinkLoopError, NotFoundError


def unreadable(error: Exception) -> ItemError:
    """The ItemError for what the system or a decoder said of a file."""
    if isinstance(error, FileNotFoundError):
        return NotFoundError("no such file, or a link whose target is gone")
    if isinstance(error, PermissionError):
        return AccessError("no permission to read it")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return LinkLoopError("a link that leads to itself")
    if isinstance(error, OSError) and error.errno is not None:
        return AccessError(f"can't be read: {error.strerror}")
    return DecodeError(f"damaged: {error}")
