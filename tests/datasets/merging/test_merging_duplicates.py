"""Of records that are the same a merge keeps the first, and only of those."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_merges import here as here  # a fixture
from support.data_merges import merge, merged_bytes, record_lines, write_file
from support.training_records import line, sample

from omnicap_cli.datasets import streams
from omnicap_cli.datasets.merging import duplicates
from omnicap_cli.datasets.merging.checked_lines import check_lines


def test_of_the_same_record_the_first_stays():
    again = line(sample(1, task_type="other", num_text=11))  # what it is worth is not what it is
    report = merge(write_file("a.jsonl", record_lines(1, 2)), write_file("b.jsonl", again + record_lines(3, 2)))
    assert merged_bytes() == record_lines(1, 2, 3)
    assert (report.num_records, report.num_duplicates) == (3, 2)
    assert (report.num_text_tokens, report.num_image_tokens) == (30, 300)
    assert report.lengths.pairs() == [(115, 3)]


DIFFERENT = [
    sample(1),
    sample(1, "Another caption of the same picture."),
    sample(1, id="other"),
    sample(1, id=1),
    sample(1, id=None),
    sample(1, image=["1.png", "2.png"]),
    sample(1, image=["2.png", "1.png"]),
    {name: value for name, value in sample(1).items() if name != "image"},
    {name: value for name, value in sample(1, video="1.mp4").items() if name != "image"},
    sample(1, conversations=sample(1)["conversations"] * 2),
    sample(1, conversations=[turn | {"from": "gpt"} for turn in sample(1)["conversations"]]),
    sample(1, id={"a": [1]}),
    sample(1, id=json.loads("[" * 300 + "]" * 300)),
]


def test_records_that_differ_in_id_media_or_conversation_all_stay():
    content = b"".join(map(line, [each | {"image_token_num": 1, "sequence_length": 20} for each in DIFFERENT]))
    report = merge(write_file("a.jsonl", content), write_file("b.jsonl", content))
    assert merged_bytes() == content
    assert (report.num_records, report.num_duplicates) == (len(DIFFERENT), len(DIFFERENT))


def test_the_order_of_keys_and_white_space_make_no_other_record():
    turned = {name: sample(1)[name] for name in reversed(sample(1))}
    turned["conversations"] = [dict(reversed(turn.items())) for turn in turned["conversations"]]
    report = merge(write_file("a.jsonl", record_lines(1) + json.dumps(turned, indent=1).replace("\n", " ").encode()))
    assert (merged_bytes(), report.num_duplicates) == (record_lines(1), 1)


def test_keeping_duplicates():
    report = merge(write_file("a.jsonl", record_lines(1, 1, 2, 1)), keep_duplicates=True)
    assert merged_bytes() == record_lines(1, 1, 2, 1)
    assert (report.num_records, report.num_duplicates) == (4, 0)


@given(st.lists(st.integers(0, 12), max_size=40), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_any_repetition_with_keys_on_disk_and_keys_that_tell_nothing(numbers, same_keys, dry_run):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_MAX_WAITING_ROWS", 5)
        patch.setattr(streams, "_BATCH_BYTES", 700)
        if same_keys:
            observe = duplicates.Duplicates.observe
            zeros = lambda self, keys: observe(self, type(keys)("q", [0] * len(keys)))  # noqa: E731
            patch.setattr(duplicates.Duplicates, "observe", zeros)
        path, output = Path(folder) / "in.jsonl", Path(folder) / "all.jsonl"
        path.write_bytes(b"".join(line(sample(number, num_text=place)) for place, number in enumerate(numbers)))
        report = merge(path, output=output, dry_run=dry_run)
        firsts = {number: place for place, number in reversed(list(enumerate(numbers)))}
        kept = sorted(firsts.values())
        assert report.num_duplicates == len(numbers) - len(kept)
        assert report.num_text_tokens == sum(kept)
        assert report.lengths.pairs() == [(place + 105, 1) for place in kept]
        if not dry_run:
            assert output.read_bytes() == b"".join(line(sample(numbers[place], num_text=place)) for place in kept)
        assert sorted(os.listdir(folder)) == (["in.jsonl"] if dry_run else ["all.jsonl", "in.jsonl"])


def test_records_are_the_same_only_if_all_of_their_digests_are(monkeypatch):
    digests = {b"0": b"A" * 16, b"1": b"A" * 8 + b"B" * 8, b"2": b"B" * 8 + b"A" * 8, b"3": b"A" * 8 + b"B" * 8}
    monkeypatch.setattr(duplicates, "digest_of", lambda each: digests[each[8:9]])
    observe = duplicates.Duplicates.observe
    monkeypatch.setattr(duplicates.Duplicates, "observe", lambda self, keys: observe(self, type(keys)("q", [7] * 4)))
    report = merge(write_file("a.jsonl", record_lines(0, 1, 2, 3)))
    assert (merged_bytes(), report.num_duplicates) == (record_lines(0, 1, 2), 1)


def test_keys_tell_most_records_apart():
    keys = check_lines(map(line, DIFFERENT), lambda *_: None).keys
    assert len(set(keys)) == len(keys) - 1  # one differs in nothing but who speaks
    assert check_lines(map(line, DIFFERENT), lambda *_: None).keys == keys
