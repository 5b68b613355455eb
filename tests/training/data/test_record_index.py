"""The index of a counted data set: built once, known again, and rebuilt for a file that changed."""

from __future__ import annotations

import json
import os

import pytest

from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.data import record_index
from omnicap_cli.training.data.corpus import Corpus
from omnicap_cli.training.data.record_index import DataError, RecordIndex


def line(number: int, length: int = 20, visual: int = 5) -> bytes:
    record = {"id": f"r{number}", "sequence_length": length, "image_token_num": visual, "conversations": []}
    return json.dumps(record).encode() + b"\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(line(0, 20, 5) + b"\n" + line(1, 30, 0) + line(2, 40, 39))
    return path


def test_records_are_found_by_their_numbers(path, tmp_path) -> None:
    index = RecordIndex.open(path, tmp_path / "cache")
    assert len(index) == 3
    assert index.sequence_lengths.tolist() == [20, 30, 40]
    assert index.num_visual_tokens.tolist() == [5, 0, 39]
    assert [index.record(number)["id"] for number in (2, 0, 1)] == ["r2", "r0", "r1"]


def test_a_last_line_without_an_end_counts(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(line(0) + line(1).rstrip(b"\n"))
    assert RecordIndex.open(path, tmp_path).record(1)["id"] == "r1"


def test_a_known_file_is_not_read_again(path, tmp_path, monkeypatch) -> None:
    first = RecordIndex.open(path, tmp_path / "cache")
    monkeypatch.setattr(record_index, "_scan_records", lambda *_: pytest.fail("read again"))
    second = RecordIndex.open(path, tmp_path / "cache")
    assert second.offsets.tolist() == first.offsets.tolist()
    assert second.record(2)["id"] == "r2"


@pytest.mark.parametrize("change", ["longer", "same size", "another file"])
def test_a_stale_index_is_noticed(path, tmp_path, change) -> None:
    RecordIndex.open(path, tmp_path / "cache")
    content = path.read_bytes()
    if change == "longer":
        path.write_bytes(content + line(3))
    else:
        path.write_bytes(content.replace(b"30", b"31"))
        state = path.stat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    lengths = RecordIndex.open(path, tmp_path / "cache").sequence_lengths.tolist()
    assert lengths == ([20, 30, 40, 20] if change == "longer" else [20, 31, 40])


def test_two_files_of_one_name_have_each_their_own(path, tmp_path) -> None:
    other = tmp_path / "b" / path.name
    other.parent.mkdir()
    other.write_bytes(line(7, 99, 1))
    RecordIndex.open(path, tmp_path / "cache")
    assert RecordIndex.open(other, tmp_path / "cache").sequence_lengths.tolist() == [99]
    assert RecordIndex.open(path, tmp_path / "cache").sequence_lengths.tolist() == [20, 30, 40]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_a_damaged_index_is_made_again(path, tmp_path, content) -> None:
    RecordIndex.open(path, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*.npz")
    kept.write_bytes(content)
    assert len(RecordIndex.open(path, tmp_path / "cache")) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"id": 1}\n', "no sequence_length"),
        (b"[1]\n", "JSON array"),
        (b"{\n", "not a record"),
        (b'{"sequence_length": 5, "image_token_num": 5}\n', "5 tokens, 5 of them"),
        (b'{"sequence_length": "5", "image_token_num": 1}\n', "'5' tokens"),
        (b'{"sequence_length": 5, "image_token_num": [1, 2]}\n', r"\[1, 2\]"),
    ],
)
def test_what_was_not_counted_is_refused_by_its_line(tmp_path, content, why) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(line(0) + content if not content.startswith(b"[") else content)
    with pytest.raises(DataError, match=why):
        RecordIndex.open(path, tmp_path / "cache")


def test_what_cannot_be_entered_is_refused(tmp_path) -> None:
    (tmp_path / "data.jsonl.gz").write_bytes(b"")
    with pytest.raises(DataError, match="compressed"):
        RecordIndex.open(tmp_path / "data.jsonl.gz", tmp_path)


def test_sets_in_their_proportions(tmp_path) -> None:
    for name, count in (("a", 10), ("b", 4)):
        (tmp_path / f"{name}.jsonl").write_bytes(b"".join(line(number, 20 + number) for number in range(count)))
    sets = [DataSet(path=tmp_path / "a.jsonl", ratio=0.5), DataSet(path=tmp_path / "b.jsonl", ratio=2)]
    corpus = Corpus.open(sets, tmp_path / "cache", max_tokens=100, too_long="refuse", seed=1)
    assert [each.num_samples for each in corpus.counts] == [5, 8]
    assert len(corpus) == 13
    ids = [corpus.record(sample)["id"] for sample in range(13)]
    assert len(set(ids[:5])) == 5
    assert ids[5:] == [f"r{number}" for number in (0, 1, 2, 3)] * 2
    assert corpus.lengths.tolist() == [20 + int(each[1:]) for each in ids]
    assert [each.num_tokens for each in corpus.counts] == [sum(corpus.lengths[:5]), sum(corpus.lengths[5:])]


def test_long_samples(tmp_path) -> None:
    """Of 30 tokens all can be cut to 25 but the one with 27 visual tokens."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(0, 20) + line(1, 30, 5) + line(2, 30, 27))

    def opened(too_long):
        return Corpus.open([DataSet(path=path)], tmp_path, max_tokens=25, too_long=too_long, seed=0)

    with pytest.raises(DataError, match=r"2 of 3 samples are longer than data\.max_length 25, as 'r1' with 30"):
        opened("refuse")
    assert opened("drop").lengths.tolist() == [20]
    assert opened("truncate").lengths.tolist() == [20, 25]
    assert opened("truncate").counts[0].num_too_long == 2


def test_nothing_to_train_on(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match="there are no samples in"):
        Corpus.open([DataSet(path=tmp_path / "a.jsonl")], tmp_path, max_tokens=25, too_long="drop", seed=0)
