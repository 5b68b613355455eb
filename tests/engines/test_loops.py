"""Loops against texts made for it: what must be found, and how late; and what must never be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.engines.loops import Loop, LoopDetector

NUM_WORDS = 150_000


def words(count: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(NUM_WORDS) for _ in range(count)]


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def looks(tokens: list[int]) -> tuple[int | None, LoopDetector]:
    """How many tokens it took to find a loop, None if there is none."""
    detector = LoopDetector()
    for number, token in enumerate(tokens, 1):
        if detector.push(token):
            return number, detector
    return None, detector


def is_periodic(tokens: list[int], period: int) -> bool:
    return tokens[period:] == tokens[:-period]


# ------------------------------------------------------------------------------------------------- must be found


@pytest.mark.parametrize(
    ("period", "num_tokens"),
    [
        *((1, 256), (2, 256), (6, 256)),
        *((7, 280), (10, 400), (12, 480)),  # forty lines
        *((13, 512), (40, 512), (100, 512), (128, 512)),
        *((129, 516), (200, 800), (256, 1024)),  # four paragraphs
    ],
)
@pytest.mark.parametrize("num_before", [0, 1, 300, 3800, 5000])
def test_found_after_so_many_tokens(period, num_tokens, num_before):
    before, loop = words(num_before, seed=1), words(period, seed=2)
    found, detector = looks(before + loop * 2000)
    assert found == num_before + num_tokens
    assert detector.loop == Loop(start=num_before, period_tokens=period)
    assert detector.trim(before + loop * 5) == before + loop


def test_a_loop_that_begins_in_the_middle_of_what_it_repeats():
    """The first time it comes with another beginning, and the period starts where the same begins."""
    before, loop = [1, 2, 3], list(range(10, 40))
    found, detector = looks(before + loop[20:] + loop * 100)
    assert detector.loop == Loop(start=3, period_tokens=30)
    assert found == 3 + 512
    assert detector.trim(before + loop[20:] + loop * 100) == before + loop[20:] + loop[:20]


def test_the_shortest_period_counts():
    """A sentence that holds a word twice, and one that is itself two equal halves."""
    sentence = [5, 6, 5, 6, 7] * 1000
    assert looks(sentence)[1].loop == Loop(start=0, period_tokens=5)
    halves = (words(20) * 2) * 100
    assert looks(halves)[1].loop == Loop(start=0, period_tokens=20)


def test_a_loop_after_one_that_was_left():
    line = words(9, seed=3)
    text = line * 20 + words(50, seed=4)  # 180 tokens: a table
    found, detector = looks(text + line * 100)
    assert detector.loop == Loop(start=230, period_tokens=9)
    assert found == 230 + 360


def test_once_found_it_stays():
    detector = LoopDetector()
    assert any(map(detector.push, [7] * 1000))
    loop = detector.loop
    assert all(detector.push(token) for token in words(600) + [8] * 600)
    assert detector.loop == loop == Loop(start=0, period_tokens=1)


def test_feeding_in_pieces_is_the_same():
    text = words(100) + words(33, seed=5) * 40
    for size in (1, 7, 64, 1000):
        detector = LoopDetector()
        found = [any(map(detector.push, text[place : place + size])) for place in range(0, len(text), size)]
        assert found[-1]
        assert found.index(True) == (100 + 512 - 1) // size
        assert detector.loop == Loop(start=100, period_tokens=33)


# ------------------------------------------------------------------------------------------------ must not be found


@pytest.mark.parametrize(
    "text",
    [
        "| --- " * 30 + "|\n",
        "Contents " + "." * 120 + " 7\n" + "Index " + "." * 120 + " 9\n",
        "-" * 200 + "\n" + "=" * 200,
        "| 0 " * 50 + "|\n",
        "\\hline\n" * 36,  # letter by letter, so seven tokens each
        "0 & 0 & 0 \\\\\n" * 18,
        "".join(f"Item {number}. A chair.\n" for number in range(1, 400)),
        "".join(f"| {number} | 0 | 0 | 0 |\n" for number in range(400)),
        "".join(f"\\draw ({x},0) -- ({x},1);\n" for x in range(200)),
    ],
)
def test_what_is_printed_so(text):
    assert looks(letters(text))[0] is None


@pytest.mark.parametrize(
    ("num_rows", "row_tokens"), [(30, 6), (40, 6), (39, 10), (39, 12), (60, 4), (3, 256), (3, 170)]
)
def test_equal_rows_of_a_table(num_rows, row_tokens):
    table = words(20, seed=6) + words(row_tokens, seed=7) * num_rows + words(300, seed=8)
    assert looks(table)[0] is None


def test_random_text_never():
    assert looks(words(30_000))[0] is None
    source = random.Random(9)
    assert looks([source.randrange(3) for _ in range(30_000)])[0] is None


@pytest.mark.parametrize(("period", "num_tokens"), [(1, 256), (7, 280), (50, 512), (255, 1020)])
def test_one_other_token_in_time_is_enough(period, num_tokens):
    line = words(period, seed=10)
    text: list[int] = []
    while len(text) < 20_000:
        text += (line * num_tokens)[: num_tokens - 1]
        text.append(NUM_WORDS + len(text))
    assert looks(text)[0] is None


def test_a_period_that_is_too_long_is_none():
    assert looks(words(257) * 20)[0] is None


def test_nothing_to_trim():
    detector = LoopDetector()
    assert not any(map(detector.push, words(100)))
    assert detector.loop is None
    assert detector.trim(words(100)) == words(100)


# ---------------------------------------------------------------------------------------------------- always true


@given(
    before=st.lists(st.integers(0, 3), max_size=400),
    period=st.lists(st.integers(0, 3), min_size=1, max_size=256),
    num_repeats=st.integers(1, 300),
    after=st.lists(st.integers(0, 3), max_size=100),
)
def test_what_is_trimmed_is_a_beginning_without_a_loop(before, period, num_repeats, after):
    text = (before + period * num_repeats + after)[:3000]
    found, detector = looks(text)
    if found is None:
        assert detector.trim(text) == text
        return
    assert detector.loop is not None
    start, length = detector.loop.start, detector.loop.period_tokens
    kept = detector.trim(text[:found])
    assert kept == text[: start + length]
    assert looks(kept)[0] is None
    tail = text[start:found]
    assert is_periodic(tail, length)
    assert len(tail) >= max(256, 4 * length)
    assert start == 0 or text[start - 1] != text[start - 1 + length]  # it doesn't begin earlier


@given(
    before=st.lists(st.integers(0, 3), max_size=300),
    period=st.lists(st.integers(0, 3), min_size=1, max_size=256),
)
def test_no_loop_goes_on_for_ever(before, period):
    found, _ = looks(before + (period * 1300)[:1300])
    assert found is not None
    assert found <= len(before) + max(512, 4 * len(period))


def test_ids_of_any_size():
    for token in (0, 1, 2**31 - 1, 2**40):
        assert looks([token] * 300)[0] == 256
