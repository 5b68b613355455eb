"""Which records of a journal count, and in which order they come, against a model that holds everything in memory."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.journal_records import line_of, make_record, write_journal

from omnicap_cli.core.runs import journal_reading
from omnicap_cli.core.runs.journal_reading import JournalEntry, JournalReader, NewestRecords
from omnicap_cli.errors import JournalError, OmnicapError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def read(path: Path, **order: bool) -> list[dict[str, Any]]:
    with JournalReader(path) as reader:
        return list(reader.records(**order))


def ids(path: Path, **order: bool) -> list[str]:
    return [record["id"] for record in read(path, **order)]


# -------------------------------------------------------------------------------------------- which records


def test_a_journal_at_rest(path):
    records = [make_record(f"{number}.jpg") for number in range(5)]
    write_journal(path, records)
    with JournalReader(path) as reader:
        entries = list(reader.entries())
        assert reader.num_records == 5
    assert [entry.record for entry in entries] == records
    assert b"".join(entry.raw for entry in entries) == path.read_bytes()
    assert [entry.offset for entry in entries] == [sum(len(line_of(each)) for each in records[:n]) for n in range(5)]


def test_the_newest_record_of_each_key(path):
    old, other, new = make_record("a.jpg", None), make_record("b.jpg"), make_record("a.jpg", "A cat.")
    write_journal(path, [old, other, new])
    assert old["key"] == new["key"]
    assert read(path) == [other, new]


@pytest.mark.parametrize("many", [1, 20_000])
def test_keys_that_begin_alike_are_told_apart(path, monkeypatch, many):
    """Whole keys count, however a first look at their beginnings is taken."""
    monkeypatch.setattr(journal_reading, "_MANY_LINES", many)
    first, second = make_record("a.jpg"), make_record("b.jpg")
    second["key"] = first["key"][:16] + "0" * 48
    assert read(write_journal(path, [first, second])) == [first, second]
    newer = first | {"caption": "newer"}
    assert read(write_journal(path, [first, second, newer])) == [second, newer]
    assert read(write_journal(path, [second, first])) == [second, first]


def test_states_of_a_picture_have_keys_of_their_own(path):
    records = [make_record("a.jpg", "before", state=1), make_record("a.jpg", "after", state=2)]
    assert read(write_journal(path, records)) == records


def test_broken_lines_are_counted_and_passed_over(path):
    first, second = make_record("a.jpg"), make_record("b.jpg")
    lines = [b"{broken\n", line_of(first), b"\n", b"  \n", b'{"id":"x"}\n', b"\xff\xfe\n", line_of(second), b"[1]\n"]
    path.write_bytes(b"".join(lines) + line_of(make_record("c.jpg"))[:-20])
    with JournalReader(path) as reader:
        assert list(reader.records()) == [first, second]
        assert (reader.num_records, reader.num_broken_lines) == (2, 4)


def test_a_last_line_without_its_end_counts_if_it_is_whole(path):
    path.write_bytes(line_of(make_record("a.jpg")) + line_of(make_record("b.jpg"))[:-1])
    assert ids(path) == ["a.jpg", "b.jpg"]


def test_an_empty_journal(path):
    path.touch()
    for order in ({}, {"sort": True}, {"grouped": True}):
        assert read(path, **order) == []


def test_a_journal_that_was_killed_while_it_wrote_its_first_line(path):
    path.write_bytes(line_of(make_record())[:40])
    assert read(path) == []


@pytest.mark.parametrize("content", [b"Dear diary,\n", b'{"a": 1}\n{"a": 2}\n', b"\x89PNG\r\n\x1a\n\0\0\n"])
def test_what_is_no_journal(path, content):
    path.write_bytes(content)
    with pytest.raises(JournalError, match="not a journal"):
        read(path)


def test_what_can_not_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("missing", "No such file"), (".", "not a file"), ("pipe", "not a file")):
        with pytest.raises(JournalError, match=said):
            JournalReader(tmp_path / name)


def test_the_first_pass_shows_every_record(path):
    records = [make_record("a.jpg", "old"), make_record("a.jpg", "new"), make_record("b.jpg")]
    write_journal(path, records)
    seen = []
    with JournalReader(path) as reader:
        reader.scan(lambda entry: seen.append(entry.record))
        assert seen == records
        assert list(reader.records()) == records[1:]


def test_many_keys(path):
    """Superseded lines throughout."""
    source = random.Random(5)
    names = [f"{source.randrange(2_000)}.jpg" for _ in range(5_000)]
    write_journal(path, (make_record(name, str(number)) for number, name in enumerate(names)))
    newest = {name: str(number) for number, name in enumerate(names)}
    assert {record["id"]: record["caption"] for record in read(path)} == newest
    assert [record["id"] for record in read(path, sort=True)] == sorted(newest)


# ------------------------------------------------------------------------------------- while it is written


def test_what_is_appended_later_does_not_belong_to_it(path):
    write_journal(path, [make_record("a.jpg", "old"), make_record("b.jpg")])
    with JournalReader(path) as reader:
        entries = reader.entries()
        with path.open("ab") as file:
            file.write(line_of(make_record("a.jpg", "new")) + line_of(make_record("c.jpg")))
        assert [entry.record["caption"] for entry in entries] == ["old", "A dog."]
        assert [entry.record["caption"] for entry in reader.entries()] == ["old", "A dog."]


def test_a_journal_that_is_written_anew_beside(path, tmp_path):
    write_journal(path, [make_record("a.jpg"), make_record("b.jpg")])
    with JournalReader(path) as reader:
        reader.scan()
        write_journal(tmp_path / "new", [make_record("c.jpg")]).replace(path)
        assert [record["id"] for record in reader.records(sort=True)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("order", [{}, {"sort": True}])
def test_a_journal_that_is_begun_anew(path, order):
    write_journal(path, [make_record(f"{number:03}.jpg") for number in range(20_000, 0, -1)])
    with JournalReader(path) as reader:
        entries = reader.entries(**order)
        next(entries)
        path.write_bytes(line_of(make_record("c.jpg")))
        with pytest.raises(JournalError, match="replaced or cut"):
            list(entries)


def test_a_journal_that_is_cut_between_two_lines(path):
    write_journal(path, [make_record("a.jpg"), make_record("b.jpg")])
    with JournalReader(path) as reader:
        reader.scan()
        os.truncate(path, len(line_of(make_record("a.jpg"))))
        with pytest.raises(JournalError, match="replaced or cut"):
            list(reader.entries())


# -------------------------------------------------------------------------------------------------- orders


def test_sorted_by_id_then_prompt(path):
    rows = [
        ("b.jpg", "natural", "short", "en"),
        ("a.jpg", "ocr", "text", "en"),
        ("a.jpg", "natural", "tag", "zh"),
        ("a.jpg", "natural", "tag", "en"),
        ("a.jpg", "natural", "short", "en"),
        ("B.jpg", "natural", "short", "en"),
        ("图.jpg", "natural", "short", "en"),
        ("é.jpg", "natural", "short", "en"),
        ("\U0001f600.jpg", "natural", "short", "en"),
        ("\uffee.jpg", "natural", "short", "en"),
    ]
    write_journal(path, [make_record(name, type=type, style=style, lang=lang) for name, type, style, lang in rows])
    expected = [rows[5], rows[4], rows[3], rows[2], rows[1], rows[0], rows[7], rows[6], rows[9], rows[8]]
    found = [tuple(record[name] for name in ("id", "type", "style", "lang")) for record in read(path, sort=True)]
    assert found == expected


def test_pages_are_sorted_by_their_number(path):
    names = [
        "f.pdf#page=10",
        "f.pdf#page=9",
        "f.pdf#page=2",
        "f.pdf",
        "f.pdf.png",
        "d.parquet#row=11",
        "d.parquet#row=3",
    ]
    write_journal(path, [make_record(name) for name in names])
    assert ids(path, sort=True) == [
        "d.parquet#row=3",
        "d.parquet#row=11",
        "f.pdf",
        "f.pdf#page=2",
        "f.pdf#page=9",
        "f.pdf#page=10",
        "f.pdf.png",
    ]


def test_equal_ones_keep_the_order_of_the_file(path):
    records = [make_record("b.jpg")] + [make_record("a.jpg", str(number), state=number) for number in range(12)]
    assert [record["caption"] for record in read(write_journal(path, records), sort=True)][:12] == [
        str(number) for number in range(12)
    ]


def test_grouped_by_the_first_of_each_id(path):
    rows = [("b", "x"), ("a", "x"), ("c", "x"), ("a", "y"), ("b", "y"), ("b", "z")]
    write_journal(path, [make_record(name, style=style) for name, style in rows])
    found = [(record["id"], record["style"]) for record in read(path, grouped=True)]
    assert found == [("b", "x"), ("b", "y"), ("b", "z"), ("a", "x"), ("a", "y"), ("c", "x")]


@pytest.mark.parametrize(("order", "names"), [("sort", ["a", "a", "b"]), ("grouped", ["b", "b", "a"])])
def test_nothing_is_sorted_that_is_in_order(path, order, names, monkeypatch):
    write_journal(path, [make_record(name, style=str(number)) for number, name in enumerate(names)])
    monkeypatch.setattr(sqlite3, "connect", lambda _path: pytest.fail("it sorts"))
    assert ids(path, **{order: True}) == names


@pytest.mark.parametrize("order", ["sort", "grouped"])
def test_records_that_lack_what_they_are_sorted_by(path, order):
    records = [
        {"key": str(number).ljust(64, "0"), "status": "ok", "id": value}
        for number, value in enumerate(["b", 7, "a", None, "b"])
    ]
    records.append({"key": "f" * 64, "status": "ok"})
    write_journal(path, records)
    found = read(path, **{order: True})
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, records))


def test_no_room_to_sort(path, monkeypatch):
    write_journal(path, [make_record("b"), make_record("a")])
    with monkeypatch.context() as patched, JournalReader(path) as reader:
        connect = sqlite3.connect

        def small(name: str) -> sqlite3.Connection:
            database = connect(name)
            database.execute("PRAGMA max_page_count = 1")
            return database

        patched.setattr(sqlite3, "connect", small)
        with pytest.raises(OmnicapError, match="full") as caught:
            list(reader.entries(sort=True))
    assert "TMPDIR" in caught.value.hint


NAMES = st.sampled_from(["a", "b", "a#page=2", "a#page=10", "a#page=02", "a#page=x", "é", "\0", "a\0b", ""])
ROWS = st.lists(st.tuples(NAMES, st.sampled_from(["x", "y"]), st.integers(0, 2), st.booleans()), max_size=30)


@given(ROWS, st.booleans())
def test_like_a_model_in_memory(tmp_path_factory, rows, with_broken_lines):
    path = tmp_path_factory.mktemp("model") / "out.jsonl"
    records = [
        make_record(name, str(number), style=style, state=state) for number, (name, style, state, _) in enumerate(rows)
    ]
    with path.open("wb") as file:
        for record, row in zip(records, rows, strict=True):
            file.write(line_of(record))
            if with_broken_lines and row[3]:
                file.write(b"{broken\n")
    last = {record["key"]: record for record in records}
    newest = [record for record in records if last[record["key"]] is record]

    def by_page(record: dict[str, Any]) -> tuple[str, int, str, str]:
        base, mark, number = record["id"].partition("#page=")
        pages = (base, int(number)) if mark and number.isdigit() else (record["id"], 0)
        return (*pages, record["id"], record["style"])

    assert read(path) == newest
    assert read(path, sort=True) == sorted(newest, key=by_page)
    first = {name: number for number, name in reversed(list(enumerate(record["id"] for record in newest)))}
    assert read(path, grouped=True) == sorted(newest, key=lambda record: first[record["id"]])


def test_the_newest_of_a_subject():
    newest = NewestRecords()
    subjects = [
        ("a", "x"),
        ("a", "y"),
        ("a", "x"),
        ("ax", ""),
        ("a\0x",),
        ("b",),
        ("b",),
        ("c",),
        ("c",),
        ("d",),
        ("d",),
    ]
    statuses = ["ok"] * 5 + ["ok", "error", "error", "ok", "error", "error"]
    entries = [JournalEntry(offset, b"", {"status": status}) for offset, status in enumerate(statuses)]
    for entry, subject in zip(entries, subjects, strict=True):
        newest.observe(entry, *subject)
    assert [newest.has(offset, "a", "x") for offset in range(5)] == [False, False, True, False, False]
    assert newest.has(1, "a", "y")
    assert newest.has(3, "ax", "")
    assert newest.has(4, "a\0x")
    assert newest.has(5, "b")  # an error after a caption doesn't take its place
    assert newest.has(8, "c")
    assert newest.has(10, "d")
    assert not newest.has(0, "e")
