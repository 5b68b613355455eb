"""How lengths look to a person: buckets, bars and figures worked out by hand."""

from __future__ import annotations

import pytest

from omnicap_cli.datasets.lengths import LengthCounts
from omnicap_cli.terminal.dataset_views import histogram_lines, length_lines


def test_bars_go_with_the_counts():
    lengths = LengthCounts({10: 8, 100: 4, 300: 1, 2000: 3})
    assert histogram_lines(lengths, 39) == [
        "       0-64  ████████████████  8  50.0%",
        "     65-128  ████████          4  25.0%",
        "    129-256                    0   0.0%",
        "    257-512  ██                1   6.2%",
        "  513-1,024                    0   0.0%",
        "1,025-2,048  ██████            3  18.8%",
    ]


def test_no_count_is_too_small_for_a_bar():
    few, many = histogram_lines(LengthCounts({1: 1, 100: 1_000_000}), 80)
    assert few.split() == ["0-64", "▏", "1", "0.0%"]
    assert many.split()[1] == "█" * 40


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_lines_fit(width):
    lengths = LengthCounts({5: 12_345_678, 70: 1, 1 << 20: 4_000})
    assert max(map(len, histogram_lines(lengths, width))) <= width


def test_figures_stand_above():
    first, *others = length_lines(LengthCounts({1000: 1, 2000: 3}))
    assert first == "lengths: min 1,000, mean 1,750.0, median 2,000, p90 2,000, p99 2,000, max 2,000"
    assert len(others) == 2


def test_nothing_of_nothing():
    assert length_lines(LengthCounts()) == []
    assert histogram_lines(LengthCounts(), 80) == []
