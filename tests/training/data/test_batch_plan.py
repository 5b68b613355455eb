"""Plans of batches: every sample once, batches that are alike in length, and ranks that share the work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.training.config.sections import PackingConfig
from omnicap_cli.training.data.batch_plan import BatchPlan, length_groups, plan_batches

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)


def plan_of(
    lengths, *, packing=None, batch_size=1, num_epochs=1, num_processes=1, seed=0, max_batches=None
) -> BatchPlan:
    numbers = np.array(lengths, np.int64)
    return plan_batches(
        numbers,
        np.zeros_like(numbers),
        packing=packing and PackingConfig(max_tokens=packing),
        batch_size=batch_size,
        num_epochs=num_epochs,
        num_processes=num_processes,
        seed=seed,
        max_batches=max_batches,
    )


def samples_of(plan: BatchPlan, batches) -> list[int]:
    return [sample for batch in batches for row in plan.rows(batch) for sample in row]


@given(LENGTHS, st.sampled_from([None, 100, 250]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_each_epoch_has_every_sample_once_whoever_takes_it(
    lengths, packing, batch_size, num_epochs, num_processes
) -> None:
    plan = plan_of(lengths, packing=packing, batch_size=batch_size, num_epochs=num_epochs, num_processes=num_processes)
    assert plan.epoch_starts.tolist()[0] == 0
    assert plan.epoch_starts.tolist()[-1] == plan.num_batches
    for start, end in zip(plan.epoch_starts[:-1], plan.epoch_starts[1:], strict=True):
        assert sorted(samples_of(plan, range(start, end))) == list(range(len(lengths)))
    steps = -(-plan.num_batches // num_processes)
    by_rank = [samples_of(plan, range(rank, steps * num_processes, num_processes)) for rank in range(num_processes)]
    assert sorted(sample for samples in by_rank for sample in samples) == sorted(list(range(len(lengths))) * num_epochs)
    for batch in range(plan.num_batches):
        rows = plan.rows(batch)
        assert 1 <= len(rows) <= batch_size
        if packing:
            assert all(sum(lengths[sample] for sample in row) <= packing for row in rows)
        else:
            assert all(len(row) == 1 for row in rows)


def test_a_batch_past_the_end_is_empty() -> None:
    plan = plan_of([5, 6, 7], batch_size=2)
    assert plan.num_batches == 2
    assert plan.rows(2) == []


def test_epochs_differ_and_seeds_make_them_again() -> None:
    plans = [plan_of(range(1, 50), num_epochs=2, seed=seed) for seed in (3, 3, 4)]
    orders = [plan.samples.tolist() for plan in plans]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:49] != orders[0][49:]
    assert plans[0].digest == plans[1].digest != plans[2].digest


@pytest.mark.parametrize("max_batches", [1, 7, 10, 11, 25])
def test_so_many_batches_whatever_epochs_those_are(max_batches) -> None:
    plan = plan_of([1] * 10, max_batches=max_batches)
    assert plan.num_batches == max_batches
    seen = samples_of(plan, range(max_batches))
    assert len(seen) == max_batches
    for start in range(0, max_batches - 9, 10):
        assert sorted(seen[start : start + 10]) == list(range(10))


def test_how_many_epochs_are_over() -> None:
    plan = plan_of([1] * 4, num_epochs=2)
    assert [plan.epoch_of(batch) for batch in (0, 1, 4, 6, 8)] == [0, 0.25, 1, 1.5, 2]


def test_batches_are_alike_in_length_and_the_longest_comes_first() -> None:
    """A group of 4 of 4,000: of each 200 that were drawn together, those beside each other by length."""
    lengths = np.random.default_rng(1).integers(1, 10_000, 4000)
    order = length_groups(lengths, 4, seed=5)
    assert sorted(order.tolist()) == list(range(4000))
    groups = lengths[order].reshape(-1, 4)
    assert lengths.max() in groups[0]
    spread = (groups.max(axis=1) - groups.min(axis=1)).mean()
    assert spread < 10_000 / 200 * 4  # four neighbours of 200 that are spread evenly are 150 apart
    for seed in range(50):  # 203: three more than were sorted together
        assert lengths[:203].max() in lengths[:203][length_groups(lengths[:203], 4, seed=seed)[:4]]
    middles = groups.mean(axis=1)[1:]
    assert abs(np.corrcoef(middles[:-1], middles[1:])[0, 1]) < 0.15  # shuffled
