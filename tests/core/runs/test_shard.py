"""The parts of a whole: disjoint, together everything, about equal, and each name always in the same one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.errors import OptionError


@given(st.text(), st.integers(1, 20))
def test_every_name_belongs_to_one_part(name, num_shards):
    assert sum(Shard(index, num_shards).takes_name(name) for index in range(num_shards)) == 1


@given(st.integers(0, 200), st.integers(1, 20))
def test_numbers_are_dealt_in_turns(num_elements, num_shards):
    parts = [
        [n for n in range(num_elements) if Shard(index, num_shards).takes_number(n)] for index in range(num_shards)
    ]
    assert sorted(each for part in parts for each in part) == list(range(num_elements))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_names_are_spread_evenly():
    """10,000 balls into 8 urns: 1,250 in each, with a standard deviation of 33."""
    names = [f"in/{number:05}.jpg" for number in range(10_000)]
    for index in range(8):
        assert 1250 - 6 * 33 < sum(Shard(index, 8).takes_name(name) for name in names) < 1250 + 6 * 33


def test_a_name_keeps_its_part():
    number = int.from_bytes(hashlib.blake2b(b"a.png", digest_size=8).digest(), "big")
    assert [Shard(index, 7).takes_name("a.png") for index in range(7)].index(True) == number % 7


def test_a_part_is_parsed_from_index_and_number():
    assert Shard.parse("0/1") == Shard(0, 1)
    assert Shard.parse("7/8") == Shard(7, 8)
    assert str(Shard.parse("7/8")) == "7/8"


@pytest.mark.parametrize("text", ["8/8", "1/0", "0/0", "-1/8", "1", "a/b", "1/8/2", "", "1.0/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(OptionError, match="--shard"):
        Shard.parse(text)
