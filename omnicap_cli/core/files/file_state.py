"""What the system says of a file that another file, or the same one after a change, has otherwise."""

from __future__ import annotations

import os
from typing import NamedTuple


class FileState(NamedTuple):
    """The device and the inode say which file it is; its size in bytes and its time in nanoseconds, in what state."""

    device: int
    inode: int
    num_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """From the system's answer."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def content(self) -> tuple[int, int]:
        """Size and time: what stays the same when a file is moved, or mounted elsewhere."""
        return self.num_bytes, self.mtime_ns
