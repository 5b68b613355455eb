"""What waits comes out by age and by nearness."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.batching.footprint import Load
from omnicap_cli.core.batching.window import Window


def window_of(*lengths: int) -> Window[int]:
    """A window in which each thing is the number of its arrival, and takes ten bytes for each token."""
    window: Window[int] = Window()
    for number, length in enumerate(lengths):
        window.add(number, Load(num_rows=1, length=length), 10 * length)
    return window


def test_by_age_and_by_nearness():
    window = window_of(500, 100, 300, 320, 300)
    assert window.oldest().what == 0
    assert [each.what for each in window.nearest(310)] == [4, 2, 3, 0, 1]  # of equally near ones the shorter
    assert [each.load.length for each in window.nearest(90)] == [100, 300, 300, 320, 500]
    assert [each.load.length for each in window.nearest(900)] == [500, 320, 300, 300, 100]
    assert (len(window), window.num_bytes) == (5, 15_200)


def test_what_is_removed_is_gone():
    window = window_of(500, 100, 300, 320, 300)
    window.remove([window.oldest(), *(each for each in window.nearest(310) if each.what == 4)])
    assert window.oldest().what == 1
    assert sorted(each.what for each in window.nearest(0)) == [1, 2, 3]
    assert (len(window), window.num_bytes) == (3, 7_200)


@given(st.lists(st.integers(0, 50)), st.integers(0, 50))
def test_nearest_are_all_by_distance(lengths, length):
    window = window_of(*lengths)
    found = list(window.nearest(length))
    distances = [abs(each.load.length - length) for each in found]
    assert distances == sorted(distances)
    assert sorted(each.what for each in found) == list(range(len(lengths)))
