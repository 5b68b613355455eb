"""What a merge of splits writes and in which order, from plain and compressed files, and where it may write."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

import pyarrow
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_merges import BOM, file_names, merge, merged_bytes, record_lines, write_file
from support.data_merges import here as here  # a fixture
from support.training_records import line, published, sample, write_split

from omnicap_cli.datasets import streams
from omnicap_cli.datasets.merging import rewriting, split_reader
from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig
from omnicap_cli.errors import JournalError, JournalLockedError, OptionError, UsageError

# ----------------------------------------------------------------------------------------- what is written


def test_splits_come_in_the_order_of_their_numbers_and_sets_as_given():
    Path("d").mkdir()
    paths = [write_split(Path("d"), "set", number, 10, record_lines(number)) for number in range(1, 11)]
    others = [write_split(Path("d"), "a", number, 2, record_lines(20 + number)) for number in (2, 1)]
    report = merge(*sorted(map(Path, paths), key=str), *others)  # by name 10 comes before 2
    assert merged_bytes() == record_lines(*range(1, 11), 21, 22)
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
    write_split(Path("d"), "a", 1, 1, record_lines(1, 2, 1))
    (Path("out") / ".all.jsonl.999999999.partial").write_bytes(b"of a merge that was killed")
    (Path("out") / ".other.jsonl.999999999.partial").write_bytes(b"of someone else")
    merge(Path("d"), output=Path("out/all.jsonl"), sort_by_length=True)
    assert file_names("out") == [".other.jsonl.999999999.partial", "all.jsonl"]


def test_lines_stay_as_they_are_byte_by_byte():
    odd = b'  {"token_length":1, "id" : "\\u00e9", "image_token_num":2,"sequence_length":9,"extra":[1.50,{"a":null}],'
    odd += '"conversations":[{"value":"一 \\n", "from":"human"}]}  \n'.encode()
    merge(write_file("a.jsonl", odd + record_lines(1)))
    assert merged_bytes() == odd + record_lines(1)


def test_byte_order_marks_blank_lines_windows_lines_and_a_missing_newline():
    first = write_file("a.jsonl", BOM + record_lines(1) + b"\n \t\n\r\n" + BOM + record_lines(2)[:-1])
    second = write_file("b.jsonl", record_lines(3)[:-1] + b"\r\n" + BOM + record_lines(4)[:-1] + b"\r\n" + BOM + b"\n")
    report = merge(first, second)
    assert merged_bytes() == record_lines(1, 2) + record_lines(3)[:-1] + b"\r\n" + record_lines(4)[:-1] + b"\r\n"
    assert (report.num_records, report.num_broken_lines) == (4, 0)


@pytest.mark.parametrize("number_of_processes", [1, 2])
def test_where_files_are_cut_into_pieces_makes_no_difference(monkeypatch, number_of_processes):
    content = BOM + record_lines(1, 2) + b"{broken\n" + record_lines(3) + b"\n\n" + record_lines(4, 1, 5)[:-1]
    path = write_file("a.jsonl", content)
    monkeypatch.setattr(split_reader, "num_cores", lambda: number_of_processes)
    monkeypatch.setattr(split_reader, "_MIN_PROCESS_BYTES", 1)
    monkeypatch.setattr(streams, "_BATCH_BYTES", 150)
    for num_bytes in [*range(100, 110), 350, 5000]:
        monkeypatch.setattr(split_reader, "_PIECE_BYTES", num_bytes)
        warnings: list[str] = []
        report = merge(path, overwrite=True, warn=warnings.append)
        assert merged_bytes() == record_lines(1, 2, 3, 4, 5)
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


# ------------------------------------------------------------------------ records of the published script


def test_records_without_sequence_length_count_text_and_pictures():
    records = [
        published(sample(1, num_text=4, num_image=60)),
        published(sample(2, num_text=5, num_image=0) | {"image_token_num": [7, 8]}),
    ]
    warnings: list[str] = []
    path = write_file("train.jsonl", b"".join(map(line, [*records, sample(3), records[0]])))
    report = merge(path, sort_by_length=True, warn=warnings.append)
    assert merged_bytes() == b"".join(map(line, [records[1], records[0], sample(3)]))
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
    packed = write_file(f"a.jsonl.{suffix}", pack(record_lines(1) + b"broken\n") + pack(record_lines(2, 3)[:-1]))
    report = merge(packed, write_file("b.jsonl", record_lines(4, 2)))
    assert merged_bytes() == record_lines(1, 2, 3, 4)
    assert (report.num_duplicates, report.broken_lines) == (1, {"not_json": 1})


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_output(suffix, sort):
    output = Path(f"all.jsonl.{suffix}")
    merge(
        write_file("a.jsonl", record_lines(1, 2, 1) + line(sample(3, num_text=1))), output=output, sort_by_length=sort
    )
    expected = [line(sample(3, num_text=1)), record_lines(1, 2)]
    with pyarrow.input_stream(str(output), compression={"gz": "gzip", "zst": "zstd"}[suffix]) as stream:
        assert stream.read() == b"".join(expected if sort else expected[::-1])
    assert file_names() == ["a.jsonl", output.name]


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl.gz", gzip.compress(record_lines(*range(99)))[:-9]), ("a.jsonl.zst", b"x" * 99)]
)
def test_damaged_compressed_files_are_refused(name, content):
    write_file("all.jsonl", b"old")
    with pytest.raises(JournalError, match=rf"can't read {name}: it is damaged"):
        merge(write_file(name, content), overwrite=True)
    assert (merged_bytes(), file_names()) == (b"old", sorted([name, "all.jsonl"]))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_without_a_byte_is_damaged(suffix):
    with pytest.raises(JournalError, match="damaged"):
        merge(write_file(f"a.jsonl{suffix}", b""))


# ------------------------------------------------------------------------------------ odd inputs and outputs


def test_empty_files_and_no_records_at_all():
    Path("d").mkdir()
    write_split(Path("d"), "a", 1, 2, b"")
    write_split(Path("d"), "a", 2, 2, b"")
    warnings: list[str] = []
    report = merge(Path("d"), warn=warnings.append)
    assert (merged_bytes(), report.num_records, warnings) == (b"", 0, ["there are no records"])


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_can_not_be_read(dry_run):
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for name, said in (("folder", "holds no splits"), ("pipe", "not a file"), ("none_split*.jsonl", "No such file")):
        with pytest.raises(JournalError, match=said):
            merge(write_file("a.jsonl", record_lines(1)), Path(name), dry_run=dry_run)
    assert file_names() == ["a.jsonl", "folder", "pipe"]


def test_only_counting_writes_nothing():
    Path("d").mkdir()
    write_split(Path("d"), "a", 1, 1, record_lines(1, 2, 1) + b"x\n")
    report = merge(Path("d"), dry_run=True, output=None)
    assert (report.num_records, report.num_duplicates, report.num_broken_lines) == (2, 1, 1)
    assert (report.written, file_names(), file_names("d")) == (False, ["d"], ["a_split1.jsonl", "meta"])


@pytest.mark.parametrize("name", ["all.txt", "all.json", "all", "all.jsonl.bz2", "all.gz"])
def test_names_that_no_output_can_have(name):
    with pytest.raises(OptionError, match="end the name in"):
        DataMergeConfig(inputs=(), output=Path(name))
    with pytest.raises(UsageError, match="no output"):
        DataMergeConfig(inputs=())


def test_an_output_that_is_there_or_is_an_input():
    path = write_file("a.jsonl", record_lines(1))
    write_file("all.jsonl", b"old")
    with pytest.raises(OptionError, match="is there already"):
        merge(path)
    with pytest.raises(OptionError, match="is one of the files to merge"):
        merge(path, output=Path("./a.jsonl"), overwrite=True)
    assert (merged_bytes(), path.read_bytes()) == (b"old", record_lines(1))


def test_an_output_that_another_merge_writes():
    path = write_file("a.jsonl", record_lines(1))
    with FileLock("all.jsonl.lock"), pytest.raises(JournalLockedError, match="another omnicap process"):
        merge(path)
    merge(path)
    assert (merged_bytes(), file_names()) == (record_lines(1), ["a.jsonl", "all.jsonl"])
