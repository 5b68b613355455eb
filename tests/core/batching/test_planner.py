"""Batches for simulated devices: what they take is recomputed here from the shapes of the published 7B, by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnicap_cli.core.batching.footprint import ModelShape
from omnicap_cli.core.batching.planner import PlannedBatch, Planner, RowGroup
from omnicap_cli.errors import OutOfMemoryError

QWEN2_VL_7B: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
        "patch_size": 14,
        "temporal_patch_size": 2,
    },
}
SHAPE = ModelShape.from_config(QWEN2_VL_7B, element_bytes=2, attention="sdpa")
GB = 10**9
WEIGHTS_BYTES, WEIGHTS_4BIT_BYTES = int(16.6 * GB), int(5.9 * GB)
PATCH_BYTES = 1176 * 6 + (1280 + 2 * 80) * 4 + 5 * 1280 * 2 + 6 * 1280 * 4  # pixels, positions, and in attention
NUM_AT_THE_END = 5  # batches of what is left, which can't all be full


def budget_of(device_gb: int) -> int:
    """What weights in bf16, or of four bits on a small device, leave of it."""
    return device_gb * GB - (WEIGHTS_BYTES if device_gb > 16 else WEIGHTS_4BIT_BYTES)


def planner_of(device_gb: float, **options: Any) -> Planner[int]:
    defaults = {"budget_bytes": budget_of(int(device_gb)), "max_new_tokens": 2048}
    return Planner(SHAPE, **(defaults | options))


def picture_of(number: int, num_visual_tokens: int, *prompt_tokens: int) -> RowGroup[int]:
    tokens = prompt_tokens or (100,)
    return RowGroup(
        what=number, num_patches=(4 * num_visual_tokens,), num_visual_tokens=num_visual_tokens, prompt_tokens=tokens
    )


def mixed_pictures(number: int, *, prompts: tuple[int, ...] = (1, 8), seed: int = 1) -> Iterator[RowGroup[int]]:
    """From thumbnails of 200 pixels to A4 at 300 dpi, sides by their logarithm, shrunk to 6,400 tokens of 28 x 28."""
    source = random.Random(seed)
    for each in range(number):
        width, height = (math.exp(source.uniform(math.log(200), math.log(side))) for side in (2480, 3508))
        scale = min(1.0, math.sqrt(6400 * 28 * 28 / (width * height)))
        columns, rows = (max(1, int(side * scale / 28)) for side in (width, height))
        texts = [source.randint(40, 150) for _ in range(source.choice(prompts))]
        yield picture_of(each, columns * rows, *texts)


def run_all(planner: Planner[int], pictures: Iterator[RowGroup[int]] | list[RowGroup[int]]) -> list[PlannedBatch[int]]:
    """As an engine does: batches as soon as they are there, then what is left."""
    batches = []
    for picture in pictures:
        planner.add(picture)
        while batch := planner.next_batch():
            batches.append(batch)
    while batch := planner.next_batch(flush=True):
        batches.append(batch)
    return batches


def rows_of(batch: PlannedBatch[int]) -> list[tuple[int, int]]:
    return [(share.group.what, row) for share in batch.shares for row in share.rows]


def simulated_peak(batch: PlannedBatch[int], num_new_tokens: int) -> int:
    """The bytes alive at the largest moment of a run through Qwen2-VL-7B in bf16, tensor by tensor."""
    pictures = [share.group for share in batch.shares]
    lengths = [
        share.group.num_visual_tokens + share.group.prompt_tokens[row] for share in batch.shares for row in share.rows
    ]
    num_rows, length = len(lengths), max(lengths)
    embeddings = sum(picture.num_visual_tokens for picture in pictures) * 3584 * 2
    num_patches = sum(sum(picture.num_patches) for picture in pictures)
    pixels = num_patches * 1176 * (4 + 2)
    hidden = num_patches * 1280
    moments = [
        pixels + hidden * 2 * 2 + 3 * hidden * 2 + 6 * hidden * 4,  # queries and keys turned in fp32
        pixels + 3 * hidden * 2 + 3 * 4 * hidden * 2,  # in the MLP
    ]
    own_embeddings = sum(len(share.rows) * share.group.num_visual_tokens for share in batch.shares) * 3584 * 2
    mask = num_rows * length * length if num_rows > 1 else 0
    cache = 0
    for _ in range(28):
        cache += num_rows * length * 2 * 4 * 128 * 2
        mlp = num_rows * length * (4 * 3584 + 3 * 18944) * 2
        moments.append(own_embeddings + mask + cache + mlp)
    for step in (1, num_new_tokens):
        grown = num_rows * (length + step) * 57_344
        copied = num_rows * (length + step) * 4 * 128 * 2  # one layer's keys
        moments.append(grown + copied + num_rows * 152_064 * (2 + 4))
    return embeddings + max(moments)


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


# ------------------------------------------------------------------------------------------ out of memory


def full_batch(planner: Planner[int], num_pictures: int = 400, *prompt_tokens: int) -> PlannedBatch[int]:
    for number in range(num_pictures):
        planner.add(picture_of(number, 600 + number % 50, *prompt_tokens))
    batch = planner.next_batch(flush=True)
    assert batch is not None
    return batch


def test_halves_are_of_whole_pictures():
    planner = planner_of(40)
    batch = full_batch(planner, 400, 50, 60)
    halves = planner.halve(batch)
    assert [row for half in halves for row in rows_of(half)] == rows_of(batch)
    assert all(share.rows == (0, 1) for half in halves for share in half.shares)
    assert all(abs(half.num_rows - batch.num_rows / 2) <= 4 for half in halves)
    assert all(simulated_peak(half, 2048) < half.num_bytes < 0.6 * batch.num_bytes for half in halves)


def test_halving_down_to_a_single_row():
    planner = planner_of(40)
    parts, rows, depth = [full_batch(planner, 5, 50, 60, 70)], [], 0
    expected = sorted(rows_of(parts[0]))
    while parts:
        part = parts.pop(0)
        if part.num_rows == 1:
            rows += rows_of(part)
            with pytest.raises(OutOfMemoryError):
                planner.halve(part)
        else:
            halves = planner.halve(part)
            assert len(halves) == 2
            parts += halves
        depth += 1
    assert sorted(rows) == expected
    assert depth == 2 * len(expected) - 1


def test_halves_of_a_single_picture_are_of_its_rows():
    planner = planner_of(80)
    planner.add(picture_of(0, 500, *range(50, 57)))
    batch = planner.next_batch(flush=True)
    assert batch is not None
    assert [half.shares[0].rows for half in planner.halve(batch)] == [(0, 1, 2), (3, 4, 5, 6)]


def test_the_larger_half_is_as_small_as_it_can_be():
    planner = planner_of(80)
    for number, num_prompts in enumerate([1, 1, 1, 6]):
        planner.add(picture_of(number, 500 + number, *[50] * num_prompts))
    batch = planner.next_batch(flush=True)
    assert batch is not None
    assert [half.num_rows for half in planner.halve(batch)] == [3, 6]


def test_the_ceiling_is_remembered():
    planner = planner_of(80)
    failed = full_batch(planner)
    planner.halve(failed)
    assert planner.ceiling_bytes == int(failed.num_bytes * 0.85)
    later = run_all(planner, mixed_pictures(400))
    assert max(batch.num_bytes for batch in later) <= 0.85 * failed.num_bytes
    assert max(batch.num_bytes for batch in later) > 0.75 * failed.num_bytes
    smaller = planner.halve(later[0])
    planner.halve(later[0])  # the ceiling doesn't rise, and the same failure lowers it once
    assert planner.ceiling_bytes == int(later[0].num_bytes * 0.85)
    assert planner.halve(smaller[0])
    assert planner.ceiling_bytes == int(smaller[0].num_bytes * 0.85)


def test_answers_that_outgrew_what_was_expected():
    planner = planner_of(80)
    planner.observe([100] * 300)
    failed = full_batch(planner)
    assert failed.num_new_tokens == 125
    halves = planner.halve(failed, num_reached_tokens=126)
    assert planner.ceiling_bytes == planner.budget_bytes
    assert [half.num_new_tokens for half in halves] == [2048, 2048]
    planner.observe([100] * 300)
    planner.halve(full_batch(planner), num_reached_tokens=125)
    assert planner.ceiling_bytes < planner.budget_bytes


def test_a_row_that_fits_no_device():
    planner = planner_of(80, budget_bytes=GB)
    for number, num_visual_tokens in enumerate([400, 6400, 420]):
        planner.add(picture_of(number, num_visual_tokens, 100, 130))
    batches = run_all(planner, [])
    assert [rows_of(batch) for batch in batches if batch.too_large] == [[(1, 0)], [(1, 1)]]
    assert sorted(rows_of(batch) for batch in batches if not batch.too_large) == [[(0, 0), (0, 1), (2, 0), (2, 1)]]
    large = [batch for batch in batches if batch.too_large]
    assert planner.totals.num_too_large == 2
    message = planner.refusal(large[1]).message
    needed = 1.05 * (25_600 * PATCH_BYTES + 6400 * 3584 * 2)  # encoding the picture takes the most
    assert large[1].num_bytes == int(needed)
    for part in ("6,400 tokens of the picture", "130 of the prompt", "2,048", f"about {needed / GB:.1f} GB", "1.0 GB"):
        assert part in message
    with pytest.raises(OutOfMemoryError, match="--max-pixels"):
        planner.halve(large[1])


def test_a_single_row_is_tried_if_only_the_ceiling_forbids_it():
    planner = planner_of(24, budget_bytes=2 * GB)
    planner.add(picture_of(0, 6000))
    failed = planner.next_batch(flush=True)
    assert failed is not None
    with pytest.raises(OutOfMemoryError, match=r"more than the expected 1\.5 GB of memory, and 2\.0 GB were free"):
        planner.halve(failed)
    planner.add(picture_of(1, 6000, 100, 100))
    batches = run_all(planner, [])
    assert [(rows_of(batch), batch.too_large) for batch in batches] == [([(1, 0)], False), ([(1, 1)], False)]


@pytest.mark.parametrize("budget_bytes", [0, -GB])
def test_no_memory_at_all(budget_bytes):
    batches = run_all(planner_of(24, budget_bytes=budget_bytes), [picture_of(0, 100, 10, 20), picture_of(1, 100)])
    assert [(rows_of(batch), batch.too_large) for batch in batches] == [
        ([(0, 0)], True),
        ([(0, 1)], True),
        ([(1, 0)], True),
    ]


def test_pictures_one_by_one():
    planner = planner_of(40)
    batch = full_batch(planner, 6, 50, 60)
    alone = planner.alone(batch)
    assert [rows_of(part) for part in alone] == [rows_of(batch)[place : place + 2] for place in range(0, 12, 2)]
    assert all(simulated_peak(part, 2048) < part.num_bytes < batch.num_bytes for part in alone)
    assert planner.ceiling_bytes == planner.budget_bytes


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
