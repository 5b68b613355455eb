"""The parts of a whole: disjoint, together everything, each in order, and none more than one larger than another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.shard import Shard
from omnicap_cli.errors import OptionError


@given(st.integers(0, 200), st.integers(1, 20))
def test_all_parts_are_the_whole(num_elements, num_shards):
    whole = list(range(num_elements))
    parts = [list(Shard(index, num_shards).of(whole)) for index in range(num_shards)]
    assert sorted(each for part in parts for each in part) == whole
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_parsed_from_index_and_number():
    assert Shard.parse("0/1") == Shard(0, 1)
    assert Shard.parse("7/8") == Shard(7, 8)
    assert str(Shard.parse("7/8")) == "7/8"


@pytest.mark.parametrize("text", ["8/8", "1/0", "0/0", "-1/8", "1", "a/b", "1/8/2", "", "1.0/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(OptionError, match="--shard"):
        Shard.parse(text)
