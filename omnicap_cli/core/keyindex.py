"""A map from millions of 16-byte keys to small numbers that stays small itself. It knows nothing of journals.

A dict needs about 150 bytes for such a pair; this needs 24, plus a dict of the newest pairs that is folded into
sorted arrays whenever it grows past a quarter of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

KEY_BYTES: Final = 16
_MIN_FOLD: Final = 1 << 16


class KeyIndex:
    """Later values replace earlier ones. One thread may write while others read."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._sorted: tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]] = (
            np.empty(0, dtype=f"S{KEY_BYTES}"),
            np.empty(0, dtype=np.int64),
        )

    def __len__(self) -> int:
        """Number of distinct keys, exact after `fold`; before it, keys set again may count twice."""
        return len(self._recent) + len(self._sorted[0])

    def get(self, key: bytes) -> int | None:
        """The value last set for `key` (16 bytes), or None."""
        value = self._recent.get(key)
        if value is not None:
            return value
        keys, values = self._sorted
        place = int(np.searchsorted(keys, np.bytes_(key)))
        # numpy drops trailing NULs from both sides, so equal lengths compare as whole keys
        if place < len(keys) and keys[place] == key.rstrip(b"\0"):
            return int(values[place])
        return None

    def set(self, key: bytes, value: int) -> None:
        """Remember `value` for `key` (16 bytes)."""
        self._recent[key] = value
        if len(self._recent) > max(_MIN_FOLD, len(self._sorted[0]) // 4):
            self.fold()

    def fold(self) -> None:
        """Merge the newest pairs into the sorted arrays."""
        if not self._recent:
            return
        count = len(self._recent)
        keys = np.concatenate([self._sorted[0], np.frombuffer(b"".join(self._recent), dtype=f"S{KEY_BYTES}")])
        values = np.concatenate([self._sorted[1], np.fromiter(self._recent.values(), np.int64, count)])
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        last = np.append(keys[1:] != keys[:-1], True)  # of equal keys the newest comes last
        self._sorted = (keys[last], values[last])  # before the dict is emptied: a reader always finds a key
        self._recent = {}
