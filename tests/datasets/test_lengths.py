"""Counts of lengths, against lists of them."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.datasets.lengths import Bucket, LengthCounts


def counts_of(*lengths: int) -> LengthCounts:
    counts = LengthCounts()
    for length in lengths:
        counts.add(length)
    return counts


@given(st.lists(st.integers(0, 300_000), min_size=1), st.lists(st.integers(0, 3000)))
def test_sums_and_quantiles(lengths, others) -> None:
    counts = counts_of(*lengths)
    counts.update(counts_of(*others))
    everything = sorted(lengths + others)
    assert counts.num_sequences == len(everything)
    assert counts.num_tokens == sum(everything)
    assert counts.pairs() == sorted({length: everything.count(length) for length in everything}.items())
    assert LengthCounts.of_pairs(counts.pairs()).pairs() == counts.pairs()
    summary = counts.summary()
    assert (summary["min"], summary["max"]) == (everything[0], everything[-1])
    assert summary["mean"] == pytest.approx(statistics.fmean(everything), abs=0.06)
    assert summary["median"] == statistics.median_low(everything)
    assert sum(length <= summary["p90"] for length in everything) >= 0.9 * len(everything)
    assert sum(length < summary["p90"] for length in everything) < 0.9 * len(everything)


@given(st.lists(st.integers(0, 300_000)))
def test_a_bucket_holds_what_lies_in_it(lengths) -> None:
    buckets = counts_of(*lengths).histogram()
    assert sum(bucket.num_sequences for bucket in buckets) == len(lengths)
    for bucket in buckets:
        assert bucket.num_sequences == sum(bucket.low <= length <= bucket.high for length in lengths)
    assert [bucket.low for bucket in buckets[1:]] == [bucket.high + 1 for bucket in buckets[:-1]]


def test_buckets_double_and_empty_ones_stand_only_between_others() -> None:
    assert counts_of(65, 128, 129, 1024).histogram() == [
        *(Bucket(65, 128, 2), Bucket(129, 256, 1), Bucket(257, 512, 0), Bucket(513, 1024, 1)),
    ]
    assert counts_of(0, 64).histogram() == [Bucket(0, 64, 2)]


def test_nothing_counted() -> None:
    assert set(LengthCounts().summary().values()) == {None}
    assert LengthCounts().histogram() == []
    assert (LengthCounts().num_sequences, LengthCounts().num_tokens, LengthCounts().quantile(0.5)) == (0, 0, None)


@pytest.mark.parametrize("pairs", [[1], [("a", 1)], [(1, None)], 5, [(1, 2, 3)]])
def test_pairs_that_are_none(pairs) -> None:
    with pytest.raises((TypeError, ValueError)):
        LengthCounts.of_pairs(pairs)
