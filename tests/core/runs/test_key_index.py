"""The index against a dict, also where keys share a bucket, or can be read where two pairs meet."""

from __future__ import annotations

import random
import threading
import tracemalloc
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.runs import key_index
from omnicap_cli.core.runs.key_index import KEY_BYTES, KeyIndex

KEYS = st.binary(max_size=3).map(lambda start: start.ljust(KEY_BYTES, b"\0")) | st.sampled_from(
    [b"\0" * KEY_BYTES, b"\xff" * KEY_BYTES, b"\0" * 15 + b"\x01", b"a" * 15 + b"\0", b"a" * 15 + b" "]
)
VALUES = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(st.lists(st.tuples(KEYS, VALUES)), st.lists(KEYS), st.integers(1, 5))
def test_like_a_dict(pairs, others, num_pairs_in_bucket):
    expected = dict(pairs)
    with patch.object(key_index, "_NUM_PAIRS_IN_BUCKET", num_pairs_in_bucket):
        index = KeyIndex()
        for key, value in pairs:
            index.set(key, value)
            assert index.get(key) == value
    assert len(index) == len(expected)
    for key in [*expected, *others]:
        assert index.get(key) == expected.get(key)


def test_empty():
    index = KeyIndex()
    assert index.get(b"\0" * KEY_BYTES) is None
    assert len(index) == 0


@pytest.mark.parametrize("start", range(1, 24))
def test_what_spans_two_pairs_is_no_key(start):
    """Both pairs are in the one bucket of a small index, the bytes of the second at once after those of the first."""
    first, second = b"0123456789abcdef", b"ghijklmnopqrstuv"
    index = KeyIndex()
    index.set(first, 1)
    index.set(second, 2)
    laid_out = first + (1).to_bytes(8, "little") + second + (2).to_bytes(8, "little")
    spanning = laid_out[start : start + KEY_BYTES]
    assert index.get(spanning) is None
    index.set(spanning, 3)
    assert [index.get(key) for key in (first, second, spanning)] == [1, 2, 3]
    assert len(index) == 3


def test_many_random_keys():
    source = random.Random(7)
    keys = [source.randbytes(KEY_BYTES) for _ in range(150_000)]
    index = KeyIndex()
    for number, key in enumerate(keys):
        index.set(key, number)
    for number in range(0, len(keys), 10):
        index.set(keys[number], -number)
    for number in range(0, len(keys), 7):
        assert index.get(keys[number]) == (-number if number % 10 == 0 else number)
    assert all(index.get(source.randbytes(KEY_BYTES)) is None for _ in range(100))
    assert len(index) == len(keys)


def test_memory_per_key():
    """Also while it grows: nothing is ever held twice."""
    source = random.Random(8)
    tracemalloc.start()
    try:
        index = KeyIndex()
        for number in range(100_000):
            index.set(source.randbytes(KEY_BYTES), number)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes / 100_000 < 32  # 16 for the key, 8 for the value, and little else


def test_a_reader_never_misses_a_key_while_it_grows():
    source = random.Random(9)
    keys = [source.randbytes(KEY_BYTES) for _ in range(20_000)]
    index, num_set, missed = KeyIndex(), [0], []

    def read() -> None:
        choose = random.Random(10)
        while num_set[0] < len(keys):
            if num_set[0]:
                number = choose.randrange(num_set[0])
                if index.get(keys[number]) != number:
                    missed.append(number)

    reader = threading.Thread(target=read)
    with patch.object(key_index, "_NUM_PAIRS_IN_BUCKET", 4):
        reader.start()
        for number, key in enumerate(keys):
            index.set(key, number)
            num_set[0] = number + 1
        reader.join()
    assert not missed
