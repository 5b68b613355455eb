"""Batches for simulated devices: as full as they can be, never too full, and made of what lies near each other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_devices import (
    GB,
    PATCH_BYTES,
    SHAPE,
    budget_of,
    full_batch,
    mixed_pictures,
    picture_of,
    planner_of,
    rows_of,
    run_all,
    simulated_peak,
)

from omnicap_cli.core.batching.planner import PlannedBatch, Planner
from omnicap_cli.errors import OutOfMemoryError

NUM_AT_THE_END = 5  # batches of what is left, which can't all be full


def padding_of(batches: list[PlannedBatch[int]]) -> float:
    lengths = [
        [share.group.num_visual_tokens + share.group.prompt_tokens[row] for share in batch.shares for row in share.rows]
        for batch in batches
    ]
    return 1 - sum(map(sum, lengths)) / sum(len(each) * max(each) for each in lengths)


def assert_rests_follow(batches: list[PlannedBatch[int]]) -> None:
    """A picture that one batch doesn't end goes on in the next, where this one stopped; one at most."""
    begun: dict[int, int] = {}
    for batch in batches:
        firsts = {share.group.what: share.rows[0] for share in batch.shares}
        assert {what: row for what, row in firsts.items() if row} == begun
        assert len(firsts) == len(batch.shares)
        begun = {
            share.group.what: share.rows[-1] + 1
            for share in batch.shares
            if share.rows[-1] + 1 < len(share.group.prompt_tokens)
        }
        assert len(begun) <= 1
    assert not begun


# ----------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("max_new_tokens", [2048, 512])
@pytest.mark.parametrize("device_gb", [8, 12, 16, 24, 40, 48, 80, 96, 141])
def test_devices_are_full_and_never_too_full(device_gb, max_new_tokens):
    budget = budget_of(device_gb)
    planner = planner_of(device_gb, max_new_tokens=max_new_tokens)
    pictures = list(mixed_pictures(2000))
    batches = run_all(planner, iter(pictures))
    assert sorted(row for batch in batches for row in rows_of(batch)) == [
        (picture.what, row) for picture in pictures for row in range(len(picture.prompt_tokens))
    ]
    assert_rests_follow(batches)
    for batch in batches:
        assert not batch.too_large
        assert batch.num_new_tokens == max_new_tokens
        assert simulated_peak(batch, max_new_tokens) * 1.04 < batch.num_bytes <= budget
    full = batches[:-NUM_AT_THE_END]
    fills = [batch.num_bytes / budget for batch in full]
    # On 8 GB a page takes most of what there is, and a second one doesn't fit: there no more is possible.
    assert sum(fills) / len(fills) >= (0.8 if device_gb == 8 else 0.9)
    assert padding_of(full) < 0.15


def test_a_small_device_has_no_room_for_one_more_row():
    """Where rows are large, a batch is as full as it can be if a row like its longest doesn't fit any more."""
    batches = run_all(planner_of(8), mixed_pictures(1000))[:-NUM_AT_THE_END]
    prefill, cached = 57_344 + 2 * (4 * 3584 + 3 * 18944), 57_344  # bytes of a token of the prompt, and of any
    num_full = 0
    for batch in batches:
        row = max(prefill * batch.padded_length, cached * (batch.padded_length + 2048))
        num_full += batch.num_bytes + 1.05 * row > budget_of(8)
    assert num_full / len(batches) > 0.85


def test_more_memory_makes_fewer_batches():
    nums = [len(run_all(planner_of(device_gb), mixed_pictures(300))) for device_gb in (24, 40, 80, 141)]
    assert nums == sorted(nums, reverse=True)
    assert nums[0] > 4 * nums[-1]


def test_same_pictures_same_batches():
    first, second = (run_all(planner_of(40), mixed_pictures(500, seed=3)) for _ in range(2))
    assert first == second


# ----------------------------------------------------------------------------------------------- by hand


def test_as_many_rows_as_fit_by_hand():
    # 900 tokens of a picture, 100 of text, 1,000 new ones: decoding takes the cache, one layer of it one and a half
    # times more, and logits; prefill takes less; besides, the embeddings stay.
    row = 2000 * (57_344 + 2048 + 1024) + 36 * 152_064 + 900 * 3584 * 2
    prefill = 1000 * (57_344 + 2 * (256 + 4 * 3584 + 3 * 18944)) + 2 * 900 * 3584 * 2
    vision = 3600 * PATCH_BYTES + 900 * 3584 * 2
    mask = 1000 * 1000
    most = max(row, prefill + mask, vision)
    assert most == prefill + mask  # in fact
    for num_rows in (2, 3, 7):
        budget = int(num_rows * most * 1.05)
        planner = planner_of(24, budget_bytes=budget + 1, max_new_tokens=1000)
        batches = run_all(planner, [picture_of(number, 900) for number in range(2 * num_rows)])
        assert [batch.num_rows for batch in batches] == [num_rows, num_rows]
        assert [batch.num_bytes for batch in batches] == [budget, budget]
        planner = planner_of(24, budget_bytes=budget - 1, max_new_tokens=1000)
        assert run_all(planner, [picture_of(number, 900) for number in range(num_rows)])[0].num_rows == num_rows - 1


def test_similar_lengths_run_together():
    pictures = [picture_of(number, length) for number, length in enumerate([300, 3000, 310, 3100, 290, 2900])]
    batches = run_all(planner_of(80), pictures)
    assert [[share.group.what for share in batch.shares] for batch in batches] == [[4, 0, 2], [5, 1, 3]]
    assert [batch.padded_length for batch in batches] == [410, 3200]


def test_padding_is_bounded():
    # 8,200 tokens with their padding: a quarter of them and 128 for each row may be padding, 2,306 together
    for num_visual_tokens, together in ((1693, False), (1694, True)):
        batches = run_all(planner_of(141), [picture_of(0, 4000), picture_of(1, num_visual_tokens)])
        assert (len(batches) == 1) is together
    batches = run_all(planner_of(141), [picture_of(0, 30), picture_of(1, 200)])  # hardly any tokens at all
    assert len(batches) == 1


def test_prompts_of_a_picture_stay_together_if_they_fit():
    batches = run_all(planner_of(80), list(mixed_pictures(40, prompts=(8,))))
    split = [share for batch in batches for share in batch.shares if len(share.rows) < 8]
    assert len(split) <= 2 * (len(batches) - 1)
    small = run_all(planner_of(141), [picture_of(number, 500, *range(40, 60)) for number in range(9)])
    assert [share.rows for batch in small for share in batch.shares] == [tuple(range(20))] * 9


def test_a_picture_with_more_prompts_than_fit():
    prompts = tuple(range(100, 140))
    batches = run_all(planner_of(24), [picture_of(0, 3000, *prompts), picture_of(1, 3000)])
    shares = [share for batch in batches for share in batch.shares if share.group.what == 0]
    assert [row for share in shares for row in share.rows] == list(range(40))
    assert len(shares) > 3
    assert all(batch.shares[0].group.what == 0 for batch in batches[:-1])
    assert_rests_follow(batches)


@pytest.mark.parametrize("max_rows", [1, 3, 8, 11])
def test_rows_have_a_ceiling_too(max_rows):
    pictures = list(mixed_pictures(60))
    batches = run_all(planner_of(80, max_rows=max_rows), iter(pictures))
    assert max(batch.num_rows for batch in batches) == max_rows
    assert sum(batch.num_rows for batch in batches) == sum(len(picture.prompt_tokens) for picture in pictures)
    assert_rests_follow(batches)


def test_few_free_rows_are_not_worth_beginning_a_picture():
    pictures = [picture_of(number, 500, *[50] * 9) for number in range(4)]
    assert [batch.num_rows for batch in run_all(planner_of(80, max_rows=10), pictures)] == [9, 9, 9, 9]
    assert [batch.num_rows for batch in run_all(planner_of(80, max_rows=12), pictures)] == [12, 12, 12]


# ---------------------------------------------------------------------------------------------- the window


def test_waiting_until_there_is_a_choice():
    planner = planner_of(80, window_groups=10)
    for number in range(9):
        planner.add(picture_of(number, 500, 40, 50))
    assert not planner.is_ready
    assert planner.next_batch() is None
    assert planner.num_waiting_rows == 18
    planner.add(picture_of(9, 500, 40, 50))
    assert planner.is_ready
    batch = planner.next_batch()
    assert batch is not None
    assert batch.num_rows == 20
    assert (planner.num_waiting_rows, planner.next_batch(flush=True)) == (0, None)


def test_a_small_device_does_not_wait_for_many():
    planner = planner_of(24, max_rows=2)
    for number in range(63):  # of which two fit a batch: 32 batches are enough to choose from
        planner.add(picture_of(number, 500))
    assert not planner.is_ready
    assert planner.num_waiting_batches == 31.5
    planner.add(picture_of(63, 500))
    assert planner.is_ready


def test_memory_tells_how_many_batches_wait():
    planner = planner_of(24, budget_bytes=10 * GB)
    planner.add(picture_of(0, 6300))
    alone = 25_200 * PATCH_BYTES + 6300 * 3584 * 2  # encoding it takes the most
    assert planner.num_waiting_batches == pytest.approx(alone * 1.05 / (10 * GB))
    planner.next_batch(flush=True)
    assert planner.num_waiting_batches == 0


def test_what_is_flushed_is_whatever_waits():
    planner = planner_of(80)
    assert planner.next_batch(flush=True) is None
    planner.add(picture_of(0, 500))
    assert planner.next_batch() is None
    batch = planner.next_batch(flush=True)
    assert batch is not None
    assert rows_of(batch) == [(0, 0)]


@pytest.mark.parametrize(("device_gb", "prompts"), [(12, (1, 2, 3)), (80, (1, 2, 3)), (24, (6,)), (40, (8,))])
def test_nothing_waits_for_ever(device_gb, prompts):
    """Whatever else comes, the picture that has waited longest is in one of the next four batches."""
    planner = planner_of(device_gb, window_groups=60)
    source = mixed_pictures(2000, prompts=prompts, seed=5)
    waiting: dict[int, int] = {}  # in order of arrival, and for how many batches as the oldest
    num_batches = longest = 0
    for picture in source:
        planner.add(picture)
        waiting[picture.what] = 0
        while batch := planner.next_batch():
            num_batches += 1
            oldest = next(iter(waiting))
            waiting[oldest] += 1
            longest = max(longest, waiting[oldest])
            for what, _ in rows_of(batch):
                waiting.pop(what, None)
    assert num_batches > 50
    assert longest <= 4


# ----------------------------------------------------------------------------------- lengths and totals


def test_short_answers_make_larger_batches():
    before, after = planner_of(40), planner_of(40)
    after.observe(300 + number % 100 for number in range(1000))
    first, second = full_batch(before), full_batch(after)
    # the 980th of a thousand lengths is 397, so 497 are expected
    assert (first.num_new_tokens, second.num_new_tokens) == (2048, 497)
    assert second.num_rows > 1.1 * first.num_rows
    assert simulated_peak(second, 497) < second.num_bytes <= budget_of(40)


def test_totals_of_a_run():
    planner = planner_of(24)
    pictures = [*mixed_pictures(200), picture_of(200, 40_000)]
    batches = run_all(planner, iter(pictures))
    assert [batch.num_rows for batch in batches if batch.too_large] == [1]
    fitting, totals = [batch for batch in batches if not batch.too_large], planner.totals
    assert (totals.num_batches, totals.num_too_large) == (len(fitting), 1)
    assert totals.num_rows == sum(len(picture.prompt_tokens) for picture in pictures) - 1
    assert totals.num_tokens == sum(batch.load.num_tokens for batch in fitting)


def test_totals_of_nothing():
    totals = planner_of(24).totals
    assert (totals.num_batches, totals.num_rows, totals.num_tokens, totals.num_too_large) == (0, 0, 0, 0)


# --------------------------------------------------------------------------------------------- properties

PICTURES = st.lists(
    st.tuples(st.integers(1, 8000), st.lists(st.integers(1, 400), min_size=1, max_size=12)), min_size=1, max_size=40
)


@settings(max_examples=60)
@given(
    PICTURES,
    st.integers(10**8, 10**11),
    st.none() | st.integers(1, 20),
    st.integers(1, 30),
    st.lists(st.integers(0, 2048), max_size=400),
)
def test_any_pictures_on_any_device(pictures, budget, max_rows, window, lengths):
    planner: Planner[int] = Planner(
        SHAPE, budget_bytes=budget, max_new_tokens=2048, max_rows=max_rows, window_groups=window
    )
    planner.observe(lengths)
    made = [picture_of(number, tokens, *texts) for number, (tokens, texts) in enumerate(pictures)]
    batches = run_all(planner, made)
    rows = sorted(row for batch in batches for row in rows_of(batch))
    assert rows == [(picture.what, row) for picture in made for row in range(len(picture.prompt_tokens))]
    assert planner.num_waiting_rows == 0
    assert_rests_follow(batches)
    for batch in batches:
        assert batch.num_rows == len(rows_of(batch)) <= (max_rows or math.inf)
        assert (batch.num_bytes > budget) is batch.too_large
        assert not batch.too_large or batch.num_rows == 1
        assert simulated_peak(batch, batch.num_new_tokens) < batch.num_bytes


@settings(max_examples=60)
@given(PICTURES, st.integers(10**9, 10**11), st.integers(10**8, 10**10))
def test_a_device_with_less_than_it_said(pictures, budget, really):
    """Whatever is predicted: every row is either run in what there is, or refused alone, and it comes to an end."""
    planner: Planner[int] = Planner(SHAPE, budget_bytes=budget, max_new_tokens=512)
    done, refused = [], []

    def work(batch: PlannedBatch[int]) -> None:
        if simulated_peak(batch, 512) <= really:
            done.extend(rows_of(batch))
            return
        try:
            halves = planner.halve(batch)
        except OutOfMemoryError:
            refused.extend(rows_of(batch))
            return
        for half in halves:
            work(half)

    ceilings = []
    for number, (tokens, texts) in enumerate(pictures):
        planner.add(picture_of(number, tokens, *texts))
    while batch := planner.next_batch(flush=True):
        ceilings.append(planner.ceiling_bytes)
        assert batch.num_bytes <= ceilings[-1] or batch.num_rows == 1
        work(batch)
    assert all(later <= earlier for earlier, later in pairwise(ceilings))
    assert sorted(done + refused) == [
        (number, row) for number, (_, texts) in enumerate(pictures) for row in range(len(texts))
    ]
    for number, row in refused:  # rightly: its picture is too large even alone
        tokens, texts = pictures[number]
        assert tokens * (57_344 + 2 * (4 * 3584 + 3 * 18944)) + texts[row] * 57_344 * 20 > really * 0.2
