"""Batches that were too large after all are halved, and the planner remembers it."""

from __future__ import annotations

import pytest
from support.simulated_devices import (
    GB,
    PATCH_BYTES,
    full_batch,
    mixed_pictures,
    picture_of,
    planner_of,
    rows_of,
    run_all,
    simulated_peak,
)

from omnicap_cli.errors import OutOfMemoryError


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
