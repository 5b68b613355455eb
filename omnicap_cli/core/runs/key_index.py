"""A map from millions of 16-byte keys to small numbers that stays small itself. It knows nothing of journals.

A dict needs about 150 bytes for such a pair; this needs 28. The pairs lie one after the other in many short buffers,
and a search through one of them is a single call. As in linear hashing (Litwin 1980), one buffer at a time is split
in two as pairs come in, so that growing needs no second copy of everything.
"""

from __future__ import annotations

from typing import Final

KEY_BYTES: Final = 16
_VALUE_BYTES: Final = 8
_PAIR_BYTES: Final = KEY_BYTES + _VALUE_BYTES
_NUM_PAIRS_IN_BUCKET: Final = 32  # on average


class KeyIndex:
    """Later values replace earlier ones. One thread may write while others read."""

    def __init__(self) -> None:
        self._buckets = [bytearray()]
        self._num_keys = 0

    def __len__(self) -> int:
        """Number of distinct keys."""
        return self._num_keys

    def get(self, key: bytes) -> int | None:
        """The value last set for `key` (16 bytes), or None."""
        code, num_buckets = hash(key), 0
        while num_buckets != len(self._buckets):  # a bucket that was split meanwhile may have lost the key to another
            num_buckets = len(self._buckets)
            bucket = self._buckets[_bucket_number(code, num_buckets)]
            start = _find_in_bucket(bucket, key)
            if start >= 0:
                return int.from_bytes(bucket[start + KEY_BYTES : start + _PAIR_BYTES], "little", signed=True)
        return None

    def set(self, key: bytes, value: int) -> None:
        """Remember `value` (below 2**63) for `key` (16 bytes)."""
        bucket = self._buckets[_bucket_number(hash(key), len(self._buckets))]
        packed = value.to_bytes(_VALUE_BYTES, "little", signed=True)
        start = _find_in_bucket(bucket, key)
        if start >= 0:
            bucket[start + KEY_BYTES : start + _PAIR_BYTES] = packed
            return
        bucket += key + packed
        self._num_keys += 1
        if self._num_keys > _NUM_PAIRS_IN_BUCKET * len(self._buckets):
            self._split_buckets()

    def _split_buckets(self) -> None:
        """Add a bucket, and move there what belongs to it; all of that is in one other."""
        bit = 1 << (len(self._buckets).bit_length() - 1)  # of hashes: those that have it move
        source = len(self._buckets) - bit
        pairs, stay, move = bytes(self._buckets[source]), bytearray(), bytearray()
        for start in range(0, len(pairs), _PAIR_BYTES):
            moves = hash(pairs[start : start + KEY_BYTES]) & bit
            (move if moves else stay).extend(pairs[start : start + _PAIR_BYTES])
        self._buckets.append(move)  # before anything is taken away: a reader always finds a key
        self._buckets[source] = stay


def _bucket_number(code: int, num_buckets: int) -> int:
    """Which of the buckets a key with this hash is in."""
    mask = (1 << (num_buckets - 1).bit_length()) - 1
    place = code & mask
    return place if place < num_buckets else code & (mask >> 1)


def _find_in_bucket(bucket: bytearray, key: bytes) -> int:
    """Where the pair of `key` begins in a bucket, or -1. What spans two pairs may look like a key."""
    start = bucket.find(key)
    while start % _PAIR_BYTES and start >= 0:
        start = bucket.find(key, start + 1)
    return start
