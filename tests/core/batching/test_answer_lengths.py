"""What is expected of answers, the quantiles counted by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.batching.answer_lengths import AnswerLengths


def seen(*num_tokens: int, limit: int = 2048) -> AnswerLengths:
    lengths = AnswerLengths(limit)
    for each in num_tokens:
        lengths.add(each)
    return lengths


def test_the_limit_until_enough_were_seen():
    assert AnswerLengths(2048).expected == 2048
    assert seen(*[10] * 255).expected == 2048
    assert seen(*[10] * 256).expected == 13  # 12.5, rounded up


def test_a_few_long_answers_do_not_count():
    # the 98th of a hundred, so the 294th of 300
    assert seen(*[100] * 294, *[2000] * 6).expected == 125
    assert seen(*[2000] * 7, *[100] * 293).expected == 2048
    assert seen(*[2000] * 7, *[100] * 293, limit=4096).expected == 2500


def test_the_latest_count():
    assert seen(*[1000] * 5000, *[100] * 4096).expected == 125


def test_forgetting():
    lengths = seen(*[100] * 300)
    lengths.forget()
    assert lengths.expected == 2048
    for _ in range(256):
        lengths.add(40)
    assert lengths.expected == 50


def test_empty_answers():
    assert seen(*[0] * 300).expected == 1


@given(st.lists(st.integers(0, 600), max_size=600), st.integers(1, 500))
def test_never_more_than_the_limit(num_tokens, limit):
    assert 1 <= seen(*num_tokens, limit=limit).expected <= limit
