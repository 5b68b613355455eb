"""What a merge of splits keeps, counts and refuses, and that a failure leaves the output as it was."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from support.training_records import line, published, sample, write_split

from omnicap_cli.core.workers.child import Child
from omnicap_cli.datasets import streams
from omnicap_cli.datasets.merging import duplicates, merge_splits, rewriting, split_reader
from omnicap_cli.datasets.merging.checked_lines import check_lines
from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, DataMergeReport, merge_data
from omnicap_cli.errors import (
    JournalError,
    JournalLockedError,
    JournalWriteError,
    OmnicapError,
    OptionError,
    UsageError,
)

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plain(name: str, content: bytes) -> Path:
    Path(name).write_bytes(content)
    return Path(name)


def lines(*numbers: int) -> bytes:
    return b"".join(line(sample(number)) for number in numbers)


def merge(*inputs: Path, warn: Callable[[str], None] = lambda _: None, **more: Any) -> DataMergeReport:
    return merge_data(DataMergeConfig(**({"inputs": inputs, "output": Path("all.jsonl")} | more)), warn)


def merged(name: str = "all.jsonl") -> bytes:
    return Path(name).read_bytes()


def names(folder: str = ".") -> list[str]:
    return sorted(os.listdir(folder))


# ----------------------------------------------------------------------------------------- what is written


def test_splits_come_in_the_order_of_their_numbers_and_sets_as_given():
    Path("d").mkdir()
    paths = [write_split(Path("d"), "set", number, 10, lines(number)) for number in range(1, 11)]
    others = [write_split(Path("d"), "a", number, 2, lines(20 + number)) for number in (2, 1)]
    report = merge(*sorted(map(Path, paths), key=str), *others)  # by name 10 comes before 2
    assert merged() == lines(*range(1, 11), 21, 22)
    assert (report.num_files, report.num_records, report.problems) == (12, 12, [])


def test_counts_are_those_of_the_records():
    Path("d").mkdir()
    write_split(
        Path("d"), "a", 1, 2, line(sample(1, num_text=3, num_image=40)) + line(sample(2, num_text=5, num_image=0))
    )
    write_split(Path("d"), "a", 2, 2, line(sample(3, num_text=7, num_image=200)))
    warnings: list[str] = []
    report = merge(Path("d"), warn=warnings.append)
    assert (report.num_records, report.num_text_tokens, report.num_image_tokens) == (3, 15, 240)
    assert report.num_sequence_tokens == 48 + 10 + 212
    assert report.lengths.pairs() == [(10, 1), (48, 1), (212, 1)]
    assert (report.num_duplicates, report.num_broken_lines, report.num_without_length, warnings) == (0, 0, 0, [])
    assert (report.output, report.written, report.num_files) == ("all.jsonl", True, 2)


def test_nothing_is_left_beside_the_output():
    Path("d").mkdir()
    Path("out").mkdir()
    write_split(Path("d"), "a", 1, 1, lines(1, 2, 1))
    (Path("out") / ".all.jsonl.999999999.partial").write_bytes(b"of a merge that was killed")
    (Path("out") / ".other.jsonl.999999999.partial").write_bytes(b"of someone else")
    merge(Path("d"), output=Path("out/all.jsonl"), sort_by_length=True)
    assert names("out") == [".other.jsonl.999999999.partial", "all.jsonl"]


def test_lines_stay_as_they_are_byte_by_byte():
    odd = b'  {"token_length":1, "id" : "\\u00e9", "image_token_num":2,"sequence_length":9,"extra":[1.50,{"a":null}],'
    odd += '"conversations":[{"value":"一 \\n", "from":"human"}]}  \n'.encode()
    merge(plain("a.jsonl", odd + lines(1)))
    assert merged() == odd + lines(1)


def test_byte_order_marks_blank_lines_windows_lines_and_a_missing_newline():
    first = plain("a.jsonl", BOM + lines(1) + b"\n \t\n\r\n" + BOM + lines(2)[:-1])
    second = plain("b.jsonl", lines(3)[:-1] + b"\r\n" + BOM + lines(4)[:-1] + b"\r\n" + BOM + b"\n")
    report = merge(first, second)
    assert merged() == lines(1, 2) + lines(3)[:-1] + b"\r\n" + lines(4)[:-1] + b"\r\n"
    assert (report.num_records, report.num_broken_lines) == (4, 0)


@pytest.mark.parametrize("number_of_processes", [1, 2])
def test_where_files_are_cut_into_pieces_makes_no_difference(monkeypatch, number_of_processes):
    content = BOM + lines(1, 2) + b"{broken\n" + lines(3) + b"\n\n" + lines(4, 1, 5)[:-1]
    path = plain("a.jsonl", content)
    monkeypatch.setattr(split_reader, "num_cores", lambda: number_of_processes)
    monkeypatch.setattr(split_reader, "_MIN_PROCESS_BYTES", 1)
    monkeypatch.setattr(streams, "_BATCH_BYTES", 150)
    for num_bytes in [*range(100, 110), 350, 5000]:
        monkeypatch.setattr(split_reader, "_PIECE_BYTES", num_bytes)
        warnings: list[str] = []
        report = merge(path, overwrite=True, warn=warnings.append)
        assert merged() == lines(1, 2, 3, 4, 5)
        assert (report.num_records, report.num_duplicates, report.broken_lines) == (5, 1, {"not_json": 1})
        assert "the first: a.jsonl:3 (not_json)" in warnings[-1]


@given(st.lists(st.sampled_from([b"", b" ", b"x", b"yy", b"zzzzzzz"]), max_size=12), st.booleans(), st.integers(1, 9))
@settings(max_examples=200)
def test_every_line_belongs_to_the_piece_in_which_it_begins(texts, ends, num_bytes):
    content = b"".join(text + b"\n" for text in texts)
    content = content if ends else content[:-1]
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(content)
        found = []
        for start in range(0, len(content), num_bytes):
            for place, batch in streams.line_batches(file_at_zero(file), start, start + num_bytes):
                for each in batch:
                    found.append((place, each))
                    place += len(each)
        whole = content.splitlines(keepends=True)
        assert found == [(sum(map(len, whole[:number])), each) for number, each in enumerate(whole)]


def file_at_zero(file):
    file.seek(0)
    return file


# ----------------------------------------------------------------------------------------- duplicates


def test_of_the_same_record_the_first_stays():
    again = line(sample(1, task_type="other", num_text=11))  # what it is worth is not what it is
    report = merge(plain("a.jsonl", lines(1, 2)), plain("b.jsonl", again + lines(3, 2)))
    assert merged() == lines(1, 2, 3)
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
    report = merge(plain("a.jsonl", content), plain("b.jsonl", content))
    assert merged() == content
    assert (report.num_records, report.num_duplicates) == (len(DIFFERENT), len(DIFFERENT))


def test_the_order_of_keys_and_white_space_make_no_other_record():
    turned = {name: sample(1)[name] for name in reversed(sample(1))}
    turned["conversations"] = [dict(reversed(turn.items())) for turn in turned["conversations"]]
    report = merge(plain("a.jsonl", lines(1) + json.dumps(turned, indent=1).replace("\n", " ").encode()))
    assert (merged(), report.num_duplicates) == (lines(1), 1)


def test_keeping_duplicates():
    report = merge(plain("a.jsonl", lines(1, 1, 2, 1)), keep_duplicates=True)
    assert merged() == lines(1, 1, 2, 1)
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
    report = merge(plain("a.jsonl", lines(0, 1, 2, 3)))
    assert (merged(), report.num_duplicates) == (lines(0, 1, 2), 1)


# ----------------------------------------------------------------------------------------- by length


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=30), st.booleans())
@settings(max_examples=80)
def test_shortest_first_and_of_one_length_in_order(pairs, keep_duplicates):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewriting, "_MAX_WAITING_BYTES", 600)
        patch.setattr(streams, "_BATCH_BYTES", 500)
        path, output = Path(folder) / "in.jsonl", Path(folder) / "all.jsonl"
        path.write_bytes(b"".join(line(sample(number, num_text=text)) for number, text in pairs))
        merge(path, output=output, sort_by_length=True, keep_duplicates=keep_duplicates)
        kept = [
            pair
            for place, pair in enumerate(pairs)
            if keep_duplicates or pair[0] not in [number for number, _ in pairs[:place]]
        ]
        in_order = sorted(kept, key=lambda pair: pair[1])
        assert output.read_bytes() == b"".join(line(sample(number, num_text=text)) for number, text in in_order)
        assert sorted(os.listdir(folder)) == ["all.jsonl", "in.jsonl"]


# ----------------------------------------------------------------------------------------- broken lines

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
    report = merge(plain("a.jsonl", lines(1) + bad + b"\n" + lines(2) + bad), warn=warnings.append)
    assert merged() == lines(1, 2)
    assert (report.num_records, report.num_broken_lines, report.broken_lines) == (2, 2, {reason: 2})
    said = f"left out 2 broken lines; the first: a.jsonl:2 ({reason}), a.jsonl:4 ({reason})"
    assert said in warnings


def test_an_id_nested_beyond_reason_ends_no_merge():
    deep = line(sample(1)).replace(b'"id": "1"', b'"id": ' + b"[" * 1000 + b"]" * 1000)
    report = merge(plain("a.jsonl", lines(1) + deep + lines(2)))
    assert (report.num_records + report.num_broken_lines, merged()[-len(lines(2)) :]) == (3, lines(2))


def test_the_first_broken_lines_of_all_are_named():
    warnings: list[str] = []
    merge(
        plain("a.jsonl", lines(1) + b"\n" + b"x\n" * 3 + lines(2)),
        plain("b.jsonl", b"[]\n" + lines(3) + b"x\n" * 9),
        warn=warnings.append,
    )
    assert warnings[-1] == (
        "left out 13 broken lines; the first: a.jsonl:3 (not_json), a.jsonl:4 (not_json), a.jsonl:5 (not_json), "
        "b.jsonl:1 (not_a_record), b.jsonl:3 (not_json)"
    )


def test_a_mark_before_a_broken_line():
    report = merge(plain("a.jsonl", BOM + b"{\n" + lines(1) + BOM + b"[]\n" + lines(2)))
    assert (merged(), report.broken_lines) == (lines(1, 2), {"not_json": 1, "not_a_record": 1})


def test_a_file_in_which_nothing_is_a_record_is_refused():
    plain("all.jsonl", b"old")
    with pytest.raises(JournalError, match=r"b\.jsonl is no data set"):
        merge(plain("a.jsonl", lines(1)), plain("b.jsonl", b"Dear diary,\n"), overwrite=True)
    assert (merged(), names()) == (b"old", ["a.jsonl", "all.jsonl", "b.jsonl"])


MEMORY_CODE = (
    "from pathlib import Path; from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data;"
    "print(merge_data(DataMergeConfig(inputs=(Path('a.jsonl'),), output=Path('all.jsonl'))).broken_lines);"
    "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from there")
def test_a_line_of_100_megabytes_is_left_out_without_being_held():
    with open("a.jsonl", "wb") as file:
        file.write(lines(1) + line(sample(2, "a" * 100_000_000)) + lines(3))
        file.write(line(sample(4, "b" * 35_000_000)) * 2 + lines(5))
    words = [sys.executable, "-c", MEMORY_CODE]
    broken, peak = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert (broken, merged()) == ("{'line_too_long': 3}", lines(1, 3, 5))
    assert int(peak) < 200_000  # kB; whole lines would be 300,000 and more


def test_long_lines_are_kept_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(streams, "_BUFFER_BYTES", 64)
    monkeypatch.setattr(streams, "_BATCH_BYTES", 128)
    monkeypatch.setattr(split_reader, "_PIECE_BYTES", 300)
    at_limit = line(sample(2, "x" * 900))
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", len(at_limit))
    longer = line(sample(3, "x" * 901))
    longest = line(sample(3, "x" * 9000))
    others = [lines(4), at_limit.replace(b"2.png", b"5.png"), lines(6)]
    content = lines(1) + at_limit + longer + others[0] + longest + others[1] + longer + longest * 2 + others[2]
    for name in ("a.jsonl", "a.jsonl.gz"):
        report = merge(plain(name, gzip.compress(content) if name.endswith("gz") else content), overwrite=True)
        assert merged() == lines(1) + at_limit + b"".join(others)
        assert report.broken_lines == {"line_too_long": 5}


@pytest.mark.parametrize("start", [0, 1, 4, 50, 103])
def test_lines_after_long_ones_are_where_they_are(monkeypatch, start):
    for name, value in (("MAX_LINE_BYTES", 10), ("_BUFFER_BYTES", 4), ("_BATCH_BYTES", 2)):
        monkeypatch.setattr(streams, name, value)
    plain("a", b"ab\n" + b"x" * 100 + b"\n" + b"cd\n" + b"y" * 57 + b"\n" + b"ef\n" + b"z" * 30)
    expected = [(0, [b"ab\n"]), (3, [streams.TOO_LONG]), (104, [b"cd\n"]), (107, [streams.TOO_LONG]), (165, [b"ef\n"])]
    with open("a", "rb", buffering=0) as file:
        found = list(streams.line_batches(file, start))
    assert found == [each for each in [*expected, (168, [streams.TOO_LONG])] if each[0] >= start]


def test_check_lines_says_what_is_left_of_lines():
    given = [b"\n", lines(1), b"x\n", BOM + lines(2), BOM + b"x\n", b" "]
    heard: list[tuple[int, str]] = []
    checked = check_lines(given, lambda place, reason: heard.append((place, reason)))
    assert checked.dropped == [(0, 1), (2, 2), (3, 3), (4, 5), (5, 1)]
    assert checked.lengths == [115, 115]
    assert heard == [(2, "not_json"), (4, "not_json")]


def test_keys_tell_most_records_apart():
    keys = check_lines(map(line, DIFFERENT), lambda *_: None).keys
    assert len(set(keys)) == len(keys) - 1  # one differs in nothing but who speaks
    assert check_lines(map(line, DIFFERENT), lambda *_: None).keys == keys


# ------------------------------------------------------------------------ records of the published script


def test_records_without_sequence_length_count_text_and_pictures():
    records = [
        published(sample(1, num_text=4, num_image=60)),
        published(sample(2, num_text=5, num_image=0) | {"image_token_num": [7, 8]}),
    ]
    warnings: list[str] = []
    path = plain("train.jsonl", b"".join(map(line, [*records, sample(3), records[0]])))
    report = merge(path, sort_by_length=True, warn=warnings.append)
    assert merged() == b"".join(map(line, [records[1], records[0], sample(3)]))
    assert report.lengths.pairs() == [(20, 1), (64, 1), (115, 1)]
    assert (report.num_text_tokens, report.num_image_tokens, report.num_without_length) == (19, 175, 2)
    assert any("no note is beside train.jsonl" in warning for warning in warnings)
    assert any("2 records have no sequence_length" in warning for warning in warnings)


# ----------------------------------------------------------------------------------------- compressed


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstd)])
def test_compressed_files_also_joined_by_cat(suffix, pack):
    packed = plain(f"a.jsonl.{suffix}", pack(lines(1) + b"broken\n") + pack(lines(2, 3)[:-1]))
    report = merge(packed, plain("b.jsonl", lines(4, 2)))
    assert merged() == lines(1, 2, 3, 4)
    assert (report.num_duplicates, report.broken_lines) == (1, {"not_json": 1})


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_output(suffix, sort):
    output = Path(f"all.jsonl.{suffix}")
    merge(plain("a.jsonl", lines(1, 2, 1) + line(sample(3, num_text=1))), output=output, sort_by_length=sort)
    expected = [line(sample(3, num_text=1)), lines(1, 2)]
    with pyarrow.input_stream(str(output), compression={"gz": "gzip", "zst": "zstd"}[suffix]) as stream:
        assert stream.read() == b"".join(expected if sort else expected[::-1])
    assert names() == ["a.jsonl", output.name]


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl.gz", gzip.compress(lines(*range(99)))[:-9]), ("a.jsonl.zst", b"x" * 99)]
)
def test_damaged_compressed_files_are_refused(name, content):
    plain("all.jsonl", b"old")
    with pytest.raises(JournalError, match=rf"can't read {name}: it is damaged"):
        merge(plain(name, content), overwrite=True)
    assert (merged(), names()) == (b"old", sorted([name, "all.jsonl"]))


# ----------------------------------------------------------------------------------------- completeness


def refusal(*inputs: Path) -> str:
    """Why they are not merged; with allow_missing they are, and the same is a warning."""
    with pytest.raises(JournalError) as found:
        merge(*inputs)
    assert not Path("all.jsonl").exists()
    assert "--allow-missing" in (found.value.hint or "")
    first, *problems = found.value.message.splitlines()
    assert first == "these are not whole data sets:"
    warnings: list[str] = []
    report = merge(*inputs, allow_missing=True, warn=warnings.append)
    assert [problem.strip() for problem in problems] == warnings[: len(problems)] == report.problems
    return "\n".join(report.problems)


def test_a_missing_split_is_named():
    for number in (1, 2, 4):
        write_split(Path(), "a", number, 5, lines(number))
    assert refusal(Path()) == "missing: splits 3 and 5 of 5 of a in ."
    assert merged() == lines(1, 2, 4)


def test_a_split_that_is_being_made_is_not_finished():
    write_split(Path(), "a", 1, 3, lines(1))
    Path("a_split2.jsonl.partial").write_bytes(lines(2))
    Path("meta/a_split3.checkpoint.json").write_bytes(b"{}")
    assert refusal(Path()) == "not finished: splits 2 and 3 of 3 of a in ."


def test_a_split_without_its_note_is_not_finished():
    write_split(Path(), "a", 1, 2, lines(1))
    plain("a_split2.jsonl", lines(2))
    assert refusal(Path()) == "a_split2.jsonl is not finished: there is no note of it"
    assert merged() == lines(1, 2)


def test_splits_that_are_there_but_not_given():
    paths = [write_split(Path(), "a", number, 3, lines(number)) for number in (1, 2, 3)]
    assert refusal(paths[1]) == "there, but not given: splits 1 and 3 of 3 of a in ."
    assert merged() == lines(2)


def test_plain_splits_with_a_gap_in_their_numbers():
    paths = [plain(f"a_split{number}.jsonl", lines(number)) for number in (1, 2, 4)]
    assert refusal(*paths[:1], paths[2]) == (
        "missing: split 3 of 4 of a in .\nthere, but not given: split 2 of 4 of a in ."
    )


def test_a_split_of_another_size_than_noted():
    write_split(Path(), "a", 1, 1, lines(1), output_bytes=7)
    assert refusal(Path()) == f"a_split1.jsonl has {len(lines(1))} bytes, and its note tells of 7"


def test_splits_that_were_made_with_other_settings():
    write_split(Path(), "a", 1, 3, lines(1), settings={"tokenizer": "old", "data": 1})
    write_split(Path(), "a", 2, 3, lines(2), settings={"tokenizer": "new", "data": 1})
    write_split(Path(), "a", 3, 3, lines(3), settings={"tokenizer": "old", "data": 1})
    assert refusal(Path()) == 'a: tokenizer is not the same for all splits: "old" in 1 and 3 and "new" in 2'


def test_splits_of_runs_with_other_numbers_of_splits():
    write_split(Path(), "a", 1, 2, lines(1))
    write_split(Path(), "a", 2, 3, lines(2))
    assert refusal(Path()) == (
        "missing: split 3 of 3 of a in .\na: splits is not the same for all splits: 2 in 1 and 3 in 2"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{broken", "can't read meta/a_split1.json: it is no note of a split"),
        (b"[]", "can't read meta/a_split1.json: it is no note of a split"),
        (None, "meta/a_split1.json is no note of a_split1.jsonl"),
    ],
)
def test_a_note_that_is_none(content, said):
    write_split(Path(), "a", 1, 1, lines(1), index=7)
    if content is not None:
        Path("meta/a_split1.json").write_bytes(content)
    assert refusal(Path()).startswith(said)


@pytest.mark.parametrize(("num_splits", "more"), [(10**12, {}), ("many", {}), (0, {}), (1, {"settings": 7})])
def test_a_note_with_values_that_make_no_sense(num_splits, more):
    write_split(Path(), "a", 1, num_splits, lines(1), **more)
    said = refusal(Path())
    assert "meta/a_split1.json" in said
    assert "no note of" in said


def test_the_same_file_twice():
    path = write_split(Path(), "a", 1, 1, lines(1))
    assert refusal(path, Path("./a_split1.jsonl")) == "a_split1.jsonl is given 2 times"
    assert merged() == lines(1)


# ------------------------------------------------------------------------------------ odd inputs and outputs


def test_empty_files_and_no_records_at_all():
    Path("d").mkdir()
    write_split(Path("d"), "a", 1, 2, b"")
    write_split(Path("d"), "a", 2, 2, b"")
    warnings: list[str] = []
    report = merge(Path("d"), warn=warnings.append)
    assert (merged(), report.num_records, warnings) == (b"", 0, ["there are no records"])


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_can_not_be_read(dry_run):
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for name, said in (("folder", "holds no splits"), ("pipe", "not a file"), ("none_split*.jsonl", "No such file")):
        with pytest.raises(JournalError, match=said):
            merge(plain("a.jsonl", lines(1)), Path(name), dry_run=dry_run)
    assert names() == ["a.jsonl", "folder", "pipe"]


def test_only_counting_writes_nothing():
    Path("d").mkdir()
    write_split(Path("d"), "a", 1, 1, lines(1, 2, 1) + b"x\n")
    report = merge(Path("d"), dry_run=True, output=None)
    assert (report.num_records, report.num_duplicates, report.num_broken_lines) == (2, 1, 1)
    assert (report.written, names(), names("d")) == (False, ["d"], ["a_split1.jsonl", "meta"])


@pytest.mark.parametrize("name", ["all.txt", "all.json", "all", "all.jsonl.bz2", "all.gz"])
def test_names_that_no_output_can_have(name):
    with pytest.raises(OptionError, match="end the name in"):
        DataMergeConfig(inputs=(), output=Path(name))
    with pytest.raises(UsageError, match="no output"):
        DataMergeConfig(inputs=())


def test_an_output_that_is_there_or_is_an_input():
    path = plain("a.jsonl", lines(1))
    plain("all.jsonl", b"old")
    with pytest.raises(OptionError, match="is there already"):
        merge(path)
    with pytest.raises(OptionError, match="is one of the files to merge"):
        merge(path, output=Path("./a.jsonl"), overwrite=True)
    assert (merged(), path.read_bytes()) == (b"old", lines(1))


def test_an_output_that_another_merge_writes():
    path = plain("a.jsonl", lines(1))
    with FileLock("all.jsonl.lock"), pytest.raises(JournalLockedError, match="another omnicap process"):
        merge(path)
    merge(path)
    assert (merged(), names()) == (lines(1), ["a.jsonl", "all.jsonl"])


# ----------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("more", [{}, {"sort_by_length": True}, {"output": Path("all.jsonl.gz")}])
def test_a_disk_that_is_full_at_any_moment_leaves_the_output_as_it_was(more):
    output = more.get("output", Path("all.jsonl"))
    plain(str(output), b"old")
    path = plain("a.jsonl", lines(1, 2, 1))
    num_writes = 0
    while output.read_bytes() == b"old":
        left = [num_writes]

        def or_full(act: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def act_or_fail(*words: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return act(*words)

            return act_or_fail

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duplicates, "_MAX_WAITING_ROWS", 1)
            patch.setattr(duplicates, "_NUM_PARTITIONS", 2)
            for module, name in ((streams, "append"), (rewriting, "write_at"), (duplicates, "append"), (os, "fsync")):
                patch.setattr(module, name, or_full(getattr(module, name)))
            try:
                merge(path, overwrite=True, **more)
            except JournalWriteError as error:
                assert "No space left on device" in error.message  # noqa: PT017  the last time there is none
        assert names() == sorted(["a.jsonl", output.name])
        num_writes += 1
    assert num_writes > 5


KILLED = """
import os, signal
from pathlib import Path
from omnicap_cli.datasets.merging import merge_splits
def die(*words):
    copy(*words)
    os.kill(os.getpid(), signal.SIGKILL)
copy, merge_splits.copy_runs = merge_splits.copy_runs, die
config = merge_splits.DataMergeConfig(inputs=(Path("a.jsonl"),), output=Path("all.jsonl"),
                                      overwrite=True, sort_by_length={})
merge_splits.merge_data(config)
"""


@pytest.mark.parametrize("sort", [False, True])
def test_killed_in_the_middle(sort):
    path = plain("a.jsonl", lines(1, 2))
    plain("all.jsonl", b"old")
    assert subprocess.run([sys.executable, "-c", KILLED.format(sort)]).returncode == -signal.SIGKILL
    assert merged() == b"old"
    left = [name for name in names() if name not in ("a.jsonl", "all.jsonl", "all.jsonl.lock")]
    assert len(left) == 1
    assert left[0].startswith(".all.jsonl.")
    merge(path, overwrite=True)
    assert (merged(), names()) == (lines(1, 2), ["a.jsonl", "all.jsonl"])


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(lines(7))


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (grow, "changed while"),
        (lambda path: os.truncate(path, 50), "changed while"),
        (lambda path: put_another(path), "changed while"),
        (Path.unlink, r"can't read b\.jsonl: No such file"),
    ],
)
def test_inputs_that_change_before_they_are_read(act, said, dry_run):
    paths = plain("a.jsonl", lines(1)), plain("b.jsonl", lines(2))
    plain("all.jsonl", b"old")
    with pytest.raises(JournalError, match=said):
        merge(*paths, overwrite=True, dry_run=dry_run, warn=lambda _: act(paths[1]))
    assert merged() == b"old"
    assert not [name for name in names() if name.endswith((".partial", ".lock"))]


def put_another(path: Path) -> None:
    os.replace(plain("new", path.read_bytes()), path)


@pytest.mark.parametrize(
    ("act", "piece_bytes"),
    [(grow, 1000), (lambda path: os.truncate(path, 50), 1000), (put_another, 1000), (grow, 1_000_000)],
)
def test_inputs_that_change_while_they_are_read(monkeypatch, act, piece_bytes):
    path = plain("a.jsonl", lines(*range(50)))
    monkeypatch.setattr(split_reader, "_PIECE_BYTES", piece_bytes)
    copy, todo = merge_splits.copy_runs, [act]

    def copy_and_act(*words: Any) -> bool:
        found = copy(*words)
        if todo:
            todo.pop()(path)
        return found

    monkeypatch.setattr(merge_splits, "copy_runs", copy_and_act)
    with pytest.raises(JournalError, match=r"a\.jsonl changed while it was merged"):
        merge(path)
    assert names() == ["a.jsonl"]


# ----------------------------------------------------------------------------------------- several processes


@pytest.fixture
def in_processes(monkeypatch):
    monkeypatch.setattr(split_reader, "num_cores", lambda: 2)
    monkeypatch.setattr(split_reader, "_MIN_PROCESS_BYTES", 1)
    monkeypatch.setattr(split_reader, "_PIECE_BYTES", 2000)


def test_processes_find_what_one_finds(in_processes):
    contents = [lines(*range(first, first + 60)) + b"x\n" for first in (0, 30, 45)]
    paths = [plain(f"{place}.jsonl", content) for place, content in enumerate(contents)]
    report = merge(*paths)
    assert merged() == lines(*range(105))
    assert (report.num_records, report.num_duplicates, report.num_broken_lines) == (105, 75, 3)
    assert report.lengths.pairs() == [(115, 105)]


def test_compressed_and_plain_files_together_are_compared_too(in_processes):
    report = merge(plain("a.jsonl", lines(*range(50))), plain("b.jsonl.gz", gzip.compress(lines(*range(60)))))
    assert (merged(), report.num_duplicates) == (lines(*range(60)), 50)


def test_what_a_process_says_against_a_file(in_processes):
    paths = plain("a.jsonl", lines(1)), plain("b.jsonl", lines(*range(50)))
    with pytest.raises(JournalError, match=r"b\.jsonl"):
        merge(*paths, warn=lambda _: paths[1].unlink())


def test_a_process_that_dies(in_processes, monkeypatch):
    sent: list[Any] = []

    def send_and_kill(self, piece):
        sent.append(self)
        self.kill()

    monkeypatch.setattr(Child, "send", send_and_kill)
    plain("all.jsonl", b"old")
    with pytest.raises(OmnicapError, match="a process that checked lines died"):
        merge(plain("a.jsonl", lines(*range(50))), overwrite=True)
    assert merged() == b"old"
    assert not any(child._process.poll() is None for child in sent)


def test_several_byte_order_marks_in_a_row():
    """As `cat` leaves them of a file that is nothing but one, and the next."""
    report = merge(plain("a.jsonl", BOM + BOM + lines(9) + lines(3, 2, 2) + BOM + BOM + b"\n" + lines(1)))
    assert merged() == lines(9, 3, 2, 1)
    assert (report.num_records, report.num_duplicates, report.num_broken_lines) == (4, 1, 0)


@pytest.mark.parametrize("more", [{}, {"sort_by_length": True}])
@pytest.mark.parametrize("excess", [0, 1])
def test_a_last_line_at_the_limit_that_lacks_its_newline(monkeypatch, more, excess):
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 2000)
    last = line(sample(3, answer="x" * 1000))[:-1]
    last = line(sample(3, answer="x" * (1000 + 2000 - 1 - len(last) + excess)))[:-1]
    assert len(last) == 1999 + excess
    report = merge(plain("a.jsonl", lines(1, 1) + last), **more)
    assert merged() == (lines(1) + last + b"\n" if not excess else lines(1))
    assert (report.num_duplicates, report.num_broken_lines) == (1, excess)


@pytest.mark.parametrize("left", ["b_split1.jsonl.partial", "meta/b_split1.checkpoint.json", "meta/b_split2.json"])
def test_a_set_of_which_no_split_is_whole_is_not_passed_over(left):
    Path("d/meta").mkdir(parents=True)
    write_split(Path("d"), "a", 1, 1, lines(1))
    (Path("d") / left).write_bytes(b"{}")
    with pytest.raises(JournalError, match="not finished: no split of b in d is whole"):
        merge(Path("d"))
    assert merge(Path("d"), allow_missing=True).num_records == 1


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_without_a_byte_is_damaged(suffix):
    with pytest.raises(JournalError, match="damaged"):
        merge(plain(f"a.jsonl{suffix}", b""))
