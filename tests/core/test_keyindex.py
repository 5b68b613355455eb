"""The index against a dict, with keys that differ only in zero bytes and with folds at every turn."""

from __future__ import annotations

import random
import threading
import tracemalloc
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core import keyindex
from omnicap_cli.core.keyindex import KEY_BYTES, KeyIndex

KEYS = st.binary(max_size=3).map(lambda start: start.ljust(KEY_BYTES, b"\0")) | st.sampled_from(
    [b"\0" * KEY_BYTES, b"\xff" * KEY_BYTES, b"\0" * 15 + b"\x01", b"a" * 15 + b"\0", b"a" * 15 + b" "]
)
VALUES = st.integers(min_value=-(2**62), max_value=2**62)


@given(st.lists(st.tuples(KEYS, VALUES)), st.lists(KEYS), st.integers(0, 5), st.booleans())
def test_like_a_dict(pairs, others, num_before_fold, fold_at_end):
    expected = dict(pairs)
    with patch.object(keyindex, "_MIN_FOLD", num_before_fold):
        index = KeyIndex()
        for key, value in pairs:
            index.set(key, value)
            assert index.get(key) == value
    if fold_at_end:
        index.fold()
        assert len(index) == len(expected)
    for key in [*expected, *others]:
        assert index.get(key) == expected.get(key)


def test_empty():
    index = KeyIndex()
    index.fold()
    assert index.get(b"\0" * KEY_BYTES) is None
    assert len(index) == 0


def test_random_keys_over_real_folds():
    source = random.Random(7)
    keys = [source.randbytes(KEY_BYTES) for _ in range(150_000)]  # two folds, the rest still in the dict
    index = KeyIndex()
    for number, key in enumerate(keys):
        index.set(key, number)
    for number in range(0, len(keys), 10):
        index.set(keys[number], -number)
    for number in range(0, len(keys), 7):
        assert index.get(keys[number]) == (-number if number % 10 == 0 else number)
    assert all(index.get(source.randbytes(KEY_BYTES)) is None for _ in range(100))
    index.fold()
    assert len(index) == len(keys)


def test_memory_per_key():
    source = random.Random(8)
    tracemalloc.start()
    try:
        index = KeyIndex()
        for number in range(100_000):
            index.set(source.randbytes(KEY_BYTES), number)
        index.fold()
        num_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_bytes / 100_000 < 32  # 16 for the key, 8 for the value, and little else


def test_a_reader_never_misses_a_key_while_it_folds():
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
    with patch.object(keyindex, "_MIN_FOLD", 50):
        reader.start()
        for number, key in enumerate(keys):
            index.set(key, number)
            num_set[0] = number + 1
        reader.join()
    assert not missed
