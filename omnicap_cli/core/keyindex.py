"""A map from millions of 16-byte keys to small numbers that stays small itself. It knows nothing of journals.

A dict needs about 150 bytes for such a pair; this needs 24, plus a dict of the newest pairs that is folded into
sorted arrays whenever it grows past a quarter of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KEY_BYTES: Final = 16
_MIN_FOLD: Final = 1 << 16


class KeyIndex:
    """Later values replace earlier ones. One thread may write while others read."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._sorted: tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Number of distinct keys, exact after `fold`; before it, keys set again may count twice."""
        return len(self._recent) + (len(self._sorted[0]) if self._sorted else 0)

    def get(self, key: bytes) -> int | None:
        """The value last set for `key` (16 bytes), or None."""
        value = self._recent.get(key)
        if value is not None or self._sorted is None:
            return value
        keys, values = self._sorted
        place = int(keys.searchsorted(key))
        # numpy drops trailing NULs from both sides, so equal lengths compare as whole keys
        if place < len(keys) and keys[place] == key.rstrip(b"\0"):
            return int(values[place])
        return None

    def set(self, key: bytes, value: int) -> None:
        """Remember `value` for `key` (16 bytes)."""
        self._recent[key] = value
        if len(self._recent) > max(_MIN_FOLD, (len(self) - len(self._recent)) // 4):
            self.fold()

    def fold(self) -> None:
        """Merge the newest pairs into the sorted arrays; a small index stays a dict."""
        if not self._recent or (self._sorted is None and len(self._recent) <= _MIN_FOLD):
            return
        import numpy as np  # only here: a small index is a dict, and a short run never needs numpy

        keys = np.frombuffer(b"".join(self._recent), dtype=f"S{KEY_BYTES}")
        values = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        if self._sorted:
            keys, values = np.concatenate([self._sorted[0], keys]), np.concatenate([self._sorted[1], values])
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        last = np.append(keys[1:] != keys[:-1], True)  # of equal keys the newest comes last
        self._sorted = (keys[last], values[last])  # before the dict is emptied: a reader always finds a key
        self._recent = {}
