"""Packs beside those of best-fit decreasing as textbooks write it, one sample at a time, and cases packed by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.packing_bound import lower_bound

from omnicap_cli.training.data.packing import Packs, pack


class Case(NamedTuple):
    sizes: list[tuple[int, int]]
    max_tokens: int
    max_patches: int

    def pack(self, **values) -> Packs:
        lengths, patches = np.array(self.sizes, np.int64).reshape(-1, 2).T
        limits = {"max_tokens": self.max_tokens, "max_patches": self.max_patches}
        return pack(lengths, patches=patches, **{**limits, "seed": 0, **values})


@st.composite
def cases(draw, max_samples: int = 60) -> Case:
    """Few sizes and many, packs of a few samples and of many, patches that bind and that don't."""
    max_tokens = draw(st.integers(1, 60))
    max_patches = draw(st.integers(0, 60) | st.just(max_tokens))
    size = st.tuples(
        st.integers(1, draw(st.integers(1, max_tokens))), st.integers(0, draw(st.integers(0, max_patches)))
    )
    if draw(st.booleans()):
        size = st.sampled_from(draw(st.lists(size, min_size=1, max_size=4)))
    return Case(draw(st.lists(size, max_size=max_samples)), max_tokens, max_patches)


def textbook(sizes: list[tuple[int, int]], max_tokens: int, max_patches: int) -> list[tuple[int, int]]:
    """What is left in each pack when each sample in turn goes where the fewest tokens, then patches, are left."""
    left: list[tuple[int, int]] = []
    for tokens, patches in sizes:
        fitting = [room for room in left if room[0] >= tokens and room[1] >= patches]
        room = min(fitting, default=(max_tokens, max_patches))
        if fitting:
            left.remove(room)
        left.append((room[0] - tokens, room[1] - patches))
    return sorted(left)


def left_in(packs: Packs, case: Case) -> list[tuple[int, int]]:
    sizes = np.array(case.sizes, np.int64).reshape(-1, 2)
    totals = [sizes[samples].sum(axis=0).tolist() for samples in packs]
    return sorted((case.max_tokens - tokens, case.max_patches - patches) for tokens, patches in totals)


def contents(packs: Packs) -> set[frozenset[int]]:
    return {frozenset(samples.tolist()) for samples in packs}


def equal(first: Packs, second: Packs) -> bool:
    return np.array_equal(first.samples, second.samples) and np.array_equal(first.starts, second.starts)


def tokens(*lengths: int) -> np.ndarray:
    return np.array(lengths, np.int64)


def log_normal(num: int) -> np.ndarray:
    """Median 880, 99th percentile 6,700, cut at 7,000."""
    sigma = np.log(6_700 / 880) / 2.3263
    lengths = np.random.default_rng(7).lognormal(np.log(880), sigma, num)
    return np.clip(lengths.astype(np.int64), 1, 7_000)


# ---------------------------------------------------------------------------------------------------- any samples


@given(cases(), st.integers(1, 20), st.integers(0, 2**32))
def test_every_sample_once_and_no_pack_too_full(case, window, seed):
    packs = case.pack(window=window, seed=seed)
    assert sorted(packs.samples.tolist()) == list(range(len(case.sizes)))
    assert packs.samples.dtype == packs.starts.dtype == np.int64
    assert (packs.starts[0], packs.starts[-1]) == (0, len(case.sizes))
    assert (np.diff(packs.starts) > 0).all()
    assert all(min(left) >= 0 for left in left_in(packs, case))


@given(cases(), st.integers(0, 2**32))
def test_packs_are_those_of_the_textbook_by_tokens(case, seed):
    packs = pack(
        np.array([tokens for tokens, _ in case.sizes], np.int64), max_tokens=case.max_tokens, window=1000, seed=seed
    )
    expected = textbook(sorted(((tokens, 0) for tokens, _ in case.sizes), reverse=True), case.max_tokens, 0)
    assert left_in(packs, Case([(tokens, 0) for tokens, _ in case.sizes], case.max_tokens, 0)) == expected


@given(cases(), st.integers(0, 2**32))
def test_packs_are_those_of_the_textbook_by_both_where_patches_bind(case, seed):
    packs = case.pack(seed=seed)
    if equal(packs, case.pack(seed=seed, max_patches=None)):
        return  # tokens alone decided, which another test looks at
    shares = [tokens / case.max_tokens + patches / (case.max_patches or 1) for tokens, patches in case.sizes]
    order = sorted(zip(np.round(shares, 9), case.sizes, strict=True), reverse=True)
    assert left_in(packs, case) == textbook([size for _, size in order], case.max_tokens, case.max_patches)


@given(cases(), st.integers(0, 2**32))
def test_patches_that_never_bind_change_nothing(case, seed):
    by_tokens = case.pack(seed=seed, max_patches=None)
    enough = max((sum(case.sizes[sample][1] for sample in samples) for samples in by_tokens), default=0)
    assert equal(case.pack(seed=seed, max_patches=enough), by_tokens)


@given(cases(), st.integers(1, 20), st.integers(0, 2**32))
def test_the_same_again(case, window, seed):
    assert equal(case.pack(window=window, seed=seed), case.pack(window=window, seed=seed))


# ------------------------------------------------------------------------------------------------ packed by hand


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], set()),
        ([10], {(10,)}),
        ([1], {(1,)}),
        ([10, 10, 10], {(10,), (10,), (10,)}),
        ([7, 3, 10, 4, 6], {(3, 7), (10,), (4, 6)}),
        ([4, 4, 4, 4, 4], {(4, 4), (4,)}),
        # the 2 goes to the 8, not into the 7 before it; and so the 3 still has its place
        ([8, 7, 3, 2], {(2, 8), (3, 7)}),
        # best-fit decreasing isn't the best: 5 3 2 and 4 3 3 would do
        ([5, 4, 3, 3, 3, 2], {(4, 5), (3, 3, 3), (2,)}),
    ],
)
def test_lengths_packed_by_hand(lengths, expected):
    packs = pack(tokens(*lengths), max_tokens=10, seed=3)
    assert {tuple(sorted(lengths[sample] for sample in samples)) for samples in packs} == expected


def test_patches_keep_samples_apart_that_tokens_would_join():
    lengths, patches = tokens(5, 5, 5, 5), tokens(8, 8, 0, 0)
    packs = pack(lengths, patches=patches, max_tokens=10, max_patches=10, seed=0)
    assert len(packs) == 2
    assert [int(patches[samples].sum()) for samples in packs] == [8, 8]
    assert len(pack(lengths, patches=tokens(8, 8, 8, 8), max_tokens=10, max_patches=10, seed=0)) == 4


def test_samples_of_one_length():
    packs = pack(np.full(1000, 7), max_tokens=50, seed=0)
    assert sorted(np.diff(packs.starts).tolist()) == [6] + [7] * 142  # 7 x 142 + 6


def test_limits_are_reached_exactly():
    packs = pack(tokens(30, 30, 40), patches=tokens(5, 5, 6), max_tokens=100, max_patches=16, seed=0)
    assert [len(samples) for samples in packs] == [3]


def test_packs_by_number():
    packs = pack(tokens(10, 4, 6, 9), max_tokens=10, seed=0)
    assert len(packs) == 3
    assert [packs[number].tolist() for number in range(3)] == [samples.tolist() for samples in packs]
    assert np.concatenate(list(packs)).tolist() == packs.samples.tolist()
    assert packs[-1].tolist() == packs[2].tolist()
    with pytest.raises(IndexError):
        packs[3]


# ------------------------------------------------------------------------------------------------ seeds, windows


def test_another_seed_gives_other_packs():
    lengths = log_normal(20_000)
    first, second = (contents(pack(lengths, max_tokens=8192, window=5000, seed=seed)) for seed in (0, 1))
    assert len(first & second) < 0.1 * len(first)


def test_samples_of_one_length_are_shuffled():
    first = pack(np.full(1000, 5), max_tokens=10, seed=0)
    distances = [abs(int(one) - int(other)) for one, other in first]
    assert 250 < np.mean(distances) < 420  # a third of a thousand, if chance decides
    assert contents(first) != contents(pack(np.full(1000, 5), max_tokens=10, seed=1))


def test_packs_are_shuffled():
    """Else those of the longest samples would come first."""
    lengths = tokens(*[9] * 500, *[2] * 2500)
    packs = pack(lengths, max_tokens=10, seed=0)
    num_long = [int(lengths[samples].max()) == 9 for samples in packs]
    assert len(packs) == 1000
    assert 200 < sum(num_long[:500]) < 300


def test_numpys_own_dice_are_left_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    first = pack(log_normal(100), max_tokens=8192, seed=0)
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    assert equal(first, pack(log_normal(100), max_tokens=8192, seed=0))


@pytest.mark.parametrize(("num", "expected"), [(9, [9]), (10, [10]), (19, [19]), (25, [12, 13]), (30, [10, 10, 10])])
def test_no_window_has_fewer_samples_than_asked_for(num, expected):
    packs = pack(np.ones(num, np.int64), max_tokens=100, window=10, seed=0)
    assert sorted(np.diff(packs.starts).tolist()) == expected


def test_windows_mix_the_samples():
    packs = pack(np.ones(1000, np.int64), max_tokens=500, window=500, seed=0)
    assert [200 < (samples < 500).sum() < 300 for samples in packs] == [True, True]


@pytest.mark.parametrize("window", [10_000, 1_000_000])
@pytest.mark.parametrize("max_tokens", [8192, 32_768])
def test_close_to_the_fewest_packs(max_tokens, window):
    lengths = log_normal(100_000)
    packs = pack(lengths, max_tokens=max_tokens, window=window, seed=0)
    num_windows = 100_000 // window or 1
    fewest = -(-int(lengths.sum()) // max_tokens)
    assert fewest <= lower_bound(lengths, max_tokens) <= len(packs) <= fewest * 1.0002 + num_windows


# ---------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("lengths", "patches", "message"),
    [
        ([5, 101, 5], [0, 0, 0], "sample 1 has 101 tokens"),
        ([5, 5, 0], [0, 0, 0], "sample 2 has 0 tokens"),
        ([-1, 5, 5], [0, 0, 0], "sample 0 has -1 tokens"),
        ([5, 5, 5], [3, 3, 17], "sample 2 has 17 patches"),
        ([5, 5, 5], [3, -3, 3], "sample 1 has -3 patches"),
    ],
)
def test_samples_that_fit_nowhere(lengths, patches, message):
    with pytest.raises(ValueError, match=message):
        pack(tokens(*lengths), patches=tokens(*patches), max_tokens=100, max_patches=16, seed=0)


def test_patches_without_a_limit_do_not_count():
    packs = pack(tokens(5, 5), patches=tokens(1000, 1000), max_tokens=10, seed=0)
    assert len(packs) == 1


def test_a_window_of_nothing():
    with pytest.raises(ValueError, match="window"):
        pack(tokens(1), max_tokens=1, window=0, seed=0)


# ------------------------------------------------------------------------------------------------- lower bound


def fewest_packs(sizes: list[int], capacity: int) -> int:
    """By trying everything: each sample in each pack that is open, or in a new one."""

    def place(rest: list[int], left: list[int]) -> int:
        if not rest:
            return len(left)
        size, *rest = rest
        tried = [
            place(rest, [*left[:index], room - size, *left[index + 1 :]])
            for index, room in enumerate(left)
            if room >= size and room not in left[:index]
        ]
        return min([*tried, place(rest, [*left, capacity - size])])

    return place(sorted(sizes, reverse=True), [])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], 0),
        ([0], 0),
        ([1], 1),
        ([10], 1),
        ([10] * 7, 7),
        ([5, 5], 1),
        ([5, 5, 5], 2),
        ([6, 6, 6], 3),  # 18 of 10 would be 2
        ([6, 4], 1),
        ([7, 7, 5], 3),  # 19 of 10 would be 2, and there are 2 over half a pack; but none of these has room for the 5
        ([7, 7, 4], 3),
        ([7, 7, 5, 3, 3], 3),
        ([6, 6, 4, 4, 4], 3),
        ([8, 8, 4, 4, 4, 1, 1], 4),  # the ones can't help the fours: 2 packs, and 12 of 10
    ],
)
def test_lower_bounds_by_hand(sizes, expected):
    assert lower_bound(tokens(*sizes), 10) == expected


def test_half_of_an_odd_capacity():
    assert lower_bound(tokens(6, 6, 6), 11) == 3
    assert lower_bound(tokens(5, 5, 5), 11) == 2
    assert lower_bound(tokens(1, 1), 1) == 2


@given(st.integers(1, 12).flatmap(lambda most: st.tuples(st.just(most), st.lists(st.integers(1, most), max_size=7))))
def test_no_packing_gets_below_the_lower_bound(case):
    capacity, sizes = case
    assert -(-sum(sizes) // capacity) <= lower_bound(tokens(*sizes), capacity) <= fewest_packs(sizes, capacity)
