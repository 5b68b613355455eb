"""Work done ahead: results in the order of the source, bounded, and errors raised where they belong."""

from __future__ import annotations

import threading
import time

import pytest

from omnicap_cli.core.workers.prefetch import in_order

PATIENCE_SECONDS = 30.0


def test_results_keep_the_order_whatever_is_ready_first():
    late = threading.Event()

    def work(number):
        if number == 0:
            assert late.wait(PATIENCE_SECONDS)
        if number == 3:
            late.set()
        return number * number

    assert list(in_order(range(10), work, num_threads=4)) == [number * number for number in range(10)]


def test_several_are_worked_on_at_once():
    together = threading.Barrier(4)
    assert list(in_order(range(4), lambda _: together.wait(PATIENCE_SECONDS) >= 0, num_threads=4)) == [True] * 4


def test_no_more_is_read_than_was_asked_for():
    read = []

    def source():
        for number in range(1000):
            read.append(number)
            yield number

    results = in_order(source(), lambda number: number, num_threads=2, look_ahead=3)
    assert next(results) == 0
    wait_until(lambda: len(read) >= 5)
    time.sleep(0.05)  # time enough for a reader without bounds to go on
    assert len(read) == 5  # one taken, three ahead of it, and one in hand that waits for room
    results.close()


def test_a_slow_source_holds_back_no_result():
    go_on = threading.Event()

    def source():
        yield 1
        assert go_on.wait(PATIENCE_SECONDS)
        yield 2

    results = in_order(source(), lambda number: number, num_threads=2)
    assert next(results) == 1  # or the test hangs, and the source gives up
    go_on.set()
    assert list(results) == [2]


def test_an_error_of_the_work_is_raised_in_its_place():
    def work(number):
        if number == 2:
            raise ValueError("two")
        return number

    results = in_order(range(5), work, num_threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_an_error_of_the_source_is_raised_after_what_came_before():
    def source():
        yield 1
        raise OSError("gone")

    results = in_order(source(), lambda number: number, num_threads=2)
    assert next(results) == 1
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_threads_end_when_nobody_wants_more():
    before = threading.active_count()
    results = in_order(iter(int, 1), lambda number: number, num_threads=3)
    next(results)
    results.close()
    wait_until(lambda: threading.active_count() <= before)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it doesn't happen"
        time.sleep(0.01)
