"""Lines that are no records, or too long for one, are left out of a merge, counted and named."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import pytest
from support.data_merges import BOM, file_names, merge, merged_bytes, record_lines, write_file
from support.data_merges import here as here  # a fixture
from support.training_records import line, sample

from omnicap_cli.datasets import streams
from omnicap_cli.datasets.merging import split_reader
from omnicap_cli.datasets.merging.checked_lines import check_lines
from omnicap_cli.errors import JournalError

BROKEN = [
    (b"not JSON at all", "not_json"),
    (b"\0\0\0\0", "not_json"),
    (line(sample(9))[:50], "not_json"),
    (line(sample(9)).strip() + b"\0", "not_json"),
    (b'{"id": "\xff\xfe"}', "not_json"),
    (b"[" * 100_000, "not_json"),
    (b"[1, 2]", "not_a_record"),
    (b"7", "not_a_record"),
    (b'"text"', "not_a_record"),
    (b"null", "not_a_record"),
    (line({"token_length": 1, "image_token_num": 1}).strip(), "conversations_malformed"),
    *(
        (line(sample(9, conversations=turns)).strip(), "conversations_malformed")
        for turns in (None, [], {}, "text", {"a": 1}, [1], [{"from": "gpt"}], [{"from": 1, "value": ""}], [[]])
    ),
    (line(sample(9, conversations=[{"from": "human", "value": None}])).strip(), "conversations_malformed"),
    *(
        (line(sample(9, **{name: value})).strip(), "counts_malformed")
        for name in ("token_length", "sequence_length", "image_token_num")
        for value in (-1, 1.0, True, "7", {}, 1 << 60, [-1], [True], [1, None])
    ),
    *((line(sample(9, **{name: None})).strip(), "counts_malformed") for name in ("token_length", "image_token_num")),
    (line({"conversations": sample(1)["conversations"]}).strip(), "counts_malformed"),
]


@pytest.mark.parametrize(("bad", "reason"), BROKEN)
def test_broken_lines_are_left_out_counted_and_named(bad, reason):
    warnings: list[str] = []
    report = merge(write_file("a.jsonl", record_lines(1) + bad + b"\n" + record_lines(2) + bad), warn=warnings.append)
    assert merged_bytes() == record_lines(1, 2)
    assert (report.num_records, report.num_broken_lines, report.broken_lines) == (2, 2, {reason: 2})
    said = f"left out 2 broken lines; the first: a.jsonl:2 ({reason}), a.jsonl:4 ({reason})"
    assert said in warnings


def test_an_id_nested_beyond_reason_ends_no_merge():
    deep = line(sample(1)).replace(b'"id": "1"', b'"id": ' + b"[" * 1000 + b"]" * 1000)
    report = merge(write_file("a.jsonl", record_lines(1) + deep + record_lines(2)))
    assert (report.num_records + report.num_broken_lines, merged_bytes()[-len(record_lines(2)) :]) == (
        3,
        record_lines(2),
    )


def test_the_first_broken_lines_of_all_are_named():
    warnings: list[str] = []
    merge(
        write_file("a.jsonl", record_lines(1) + b"\n" + b"x\n" * 3 + record_lines(2)),
        write_file("b.jsonl", b"[]\n" + record_lines(3) + b"x\n" * 9),
        warn=warnings.append,
    )
    assert warnings[-1] == (
        "left out 13 broken lines; the first: a.jsonl:3 (not_json), a.jsonl:4 (not_json), a.jsonl:5 (not_json), "
        "b.jsonl:1 (not_a_record), b.jsonl:3 (not_json)"
    )


def test_a_mark_before_a_broken_line():
    report = merge(write_file("a.jsonl", BOM + b"{\n" + record_lines(1) + BOM + b"[]\n" + record_lines(2)))
    assert (merged_bytes(), report.broken_lines) == (record_lines(1, 2), {"not_json": 1, "not_a_record": 1})


def test_a_file_in_which_nothing_is_a_record_is_refused():
    write_file("all.jsonl", b"old")
    with pytest.raises(JournalError, match=r"b\.jsonl is no data set"):
        merge(write_file("a.jsonl", record_lines(1)), write_file("b.jsonl", b"Dear diary,\n"), overwrite=True)
    assert (merged_bytes(), file_names()) == (b"old", ["a.jsonl", "all.jsonl", "b.jsonl"])


MEMORY_CODE = (
    "from pathlib import Path; from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data;"
    "print(merge_data(DataMergeConfig(inputs=(Path('a.jsonl'),), output=Path('all.jsonl'))).broken_lines);"
    "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from there")
def test_a_line_of_100_megabytes_is_left_out_without_being_held():
    with open("a.jsonl", "wb") as file:
        file.write(record_lines(1) + line(sample(2, "a" * 100_000_000)) + record_lines(3))
        file.write(line(sample(4, "b" * 35_000_000)) * 2 + record_lines(5))
    words = [sys.executable, "-c", MEMORY_CODE]
    broken, peak = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert (broken, merged_bytes()) == ("{'line_too_long': 3}", record_lines(1, 3, 5))
    assert int(peak) < 200_000  # kB; whole lines would be 300,000 and more


def test_long_lines_are_kept_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(streams, "_BUFFER_BYTES", 64)
    monkeypatch.setattr(streams, "_BATCH_BYTES", 128)
    monkeypatch.setattr(split_reader, "_PIECE_BYTES", 300)
    at_limit = line(sample(2, "x" * 900))
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", len(at_limit))
    longer = line(sample(3, "x" * 901))
    longest = line(sample(3, "x" * 9000))
    others = [record_lines(4), at_limit.replace(b"2.png", b"5.png"), record_lines(6)]
    content = record_lines(1) + at_limit + longer + others[0] + longest + others[1] + longer + longest * 2 + others[2]
    for name in ("a.jsonl", "a.jsonl.gz"):
        report = merge(write_file(name, gzip.compress(content) if name.endswith("gz") else content), overwrite=True)
        assert merged_bytes() == record_lines(1) + at_limit + b"".join(others)
        assert report.broken_lines == {"line_too_long": 5}


@pytest.mark.parametrize("start", [0, 1, 4, 50, 103])
def test_lines_after_long_ones_are_where_they_are(monkeypatch, start):
    for name, value in (("MAX_LINE_BYTES", 10), ("_BUFFER_BYTES", 4), ("_BATCH_BYTES", 2)):
        monkeypatch.setattr(streams, name, value)
    write_file("a", b"ab\n" + b"x" * 100 + b"\n" + b"cd\n" + b"y" * 57 + b"\n" + b"ef\n" + b"z" * 30)
    expected = [(0, [b"ab\n"]), (3, [streams.TOO_LONG]), (104, [b"cd\n"]), (107, [streams.TOO_LONG]), (165, [b"ef\n"])]
    with open("a", "rb", buffering=0) as file:
        found = list(streams.line_batches(file, start))
    assert found == [each for each in [*expected, (168, [streams.TOO_LONG])] if each[0] >= start]


def test_check_lines_says_what_is_left_of_lines():
    given = [b"\n", record_lines(1), b"x\n", BOM + record_lines(2), BOM + b"x\n", b" "]
    heard: list[tuple[int, str]] = []
    checked = check_lines(given, lambda place, reason: heard.append((place, reason)))
    assert checked.dropped == [(0, 1), (2, 2), (3, 3), (4, 5), (5, 1)]
    assert checked.lengths == [115, 115]
    assert heard == [(2, "not_json"), (4, "not_json")]


def test_several_byte_order_marks_in_a_row():
    """As `cat` leaves them of a file that is nothing but one, and the next."""
    report = merge(
        write_file("a.jsonl", BOM + BOM + record_lines(9) + record_lines(3, 2, 2) + BOM + BOM + b"\n" + record_lines(1))
    )
    assert merged_bytes() == record_lines(9, 3, 2, 1)
    assert (report.num_records, report.num_duplicates, report.num_broken_lines) == (4, 1, 0)


@pytest.mark.parametrize("more", [{}, {"sort_by_length": True}])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_last_line_at_the_limit_that_lacks_its_newline(monkeypatch, more, excess):
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 2000)
    last = line(sample(3, answer="x" * 1000))[:-1]
    last = line(sample(3, answer="x" * (1000 + 2000 - 1 - len(last) + excess)))[:-1]
    assert len(last) == 1999 + excess
    report = merge(write_file("a.jsonl", record_lines(1, 1) + last), **more)
    assert merged_bytes() == (record_lines(1) + last + b"\n" if not excess else record_lines(1))
    assert (report.num_duplicates, report.num_broken_lines) == (1, excess)
