"""JSON lines, CSV, TSV and parquet, read back with readers that know nothing of omnicap."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from support.journal_records import HOSTILE_CAPTIONS, line_of, make_record, write_journal

from omnicap_cli import __version__
from omnicap_cli.exports import table_columns, tables
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import ExportOutcome, export_journal

RECORD_NAMES = [
    *("id", "image", "page", "type", "style", "lang", "caption", "status", "error_kind", "error_message"),
    *("finish_reason", "generated", "model", "revision", "engine", "prompt_sha", "settings", "width", "height"),
    *("prompt_tokens", "image_tokens", "output_tokens", "seconds", "attempts", "key"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def convert(journal: Path, name: str, **options: Any) -> tuple[Path, ExportOutcome]:
    """Export to a file beside the journal."""
    target = journal.with_name(name)
    outcome = export_journal(
        ExportConfig(journal=journal, output=target, overwrite=True, **options), show=lambda _: pytest.fail("stdout")
    )
    return target, outcome


def rows_of(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    csv.field_size_limit(1 << 24)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter, strict=True))


def as_csv(journal: Path, **options: Any) -> list[dict[str, str]]:
    return rows_of(convert(journal, "out.csv", **options)[0])


def as_parquet(journal: Path, **options: Any) -> pyarrow.Table:
    return pyarrow.parquet.read_table(convert(journal, "out.parquet", **options)[0])


# -------------------------------------------------------------------------------------------------- jsonl


def test_jsonl_is_the_lines_as_they_are(journal):
    odd = b'{ "key" : "' + b"ab" * 32 + b'", "status":"ok", "caption": "\\u00e9 \\/", "seconds": 1.50 }\r\n'
    old, new = line_of(make_record("a.jpg", "old")), line_of(make_record("a.jpg", "new"))
    last = line_of(make_record("z.jpg"))[:-1]
    journal.write_bytes(old + odd + b"{broken\n" + new + last)
    target, outcome = convert(journal, "copy.ndjson")
    assert target.read_bytes() == odd + new + last + b"\n"
    assert outcome.num_written == 3
    assert any("1 broken line" in warning for warning in outcome.warnings)


def test_hostile_captions_in_jsonl(journal):
    write_journal(journal, [make_record(str(number), each) for number, each in enumerate(HOSTILE_CAPTIONS)])
    target, _ = convert(journal, "copy.jsonl")
    assert target.read_bytes() == journal.read_bytes()


# ---------------------------------------------------------------------------------------------------- CSV


def test_one_record_byte_for_byte(journal):
    write_journal(
        journal, [make_record("a, b.jpg", 'A "dog",\nthen\ra cat.', settings={"dpi": 150}, meta={"who": "me"})]
    )
    target, _ = convert(journal, "out.csv")
    header, row = target.read_bytes().decode().split("\r\n", 1)
    assert header == ",".join([*RECORD_NAMES, "meta.who"])
    assert row == (
        '"a, b.jpg","a, b.jpg",,natural,detailed,en,"A ""dog"",\nthen\ra cat.",ok,,,stop,true,U4R/OmniCaptioner,,'
        'vllm,0123456789abcdef,"{""dpi"":150}",640,480,30,391,7,0.25,1,' + make_record("a, b.jpg")["key"] + ",me\r\n"
    )


@pytest.mark.parametrize(("name", "delimiter"), [("out.csv", ","), ("out.tsv", "\t")])
def test_hostile_captions(journal, name, delimiter):
    write_journal(journal, [make_record(str(number), each) for number, each in enumerate(HOSTILE_CAPTIONS)])
    target, outcome = convert(journal, name)
    assert outcome.num_written == len(HOSTILE_CAPTIONS)
    found = [row["caption"] for row in rows_of(target, delimiter)]
    assert found == [each.replace("\0", "\ufffd") for each in HOSTILE_CAPTIONS]


@pytest.mark.parametrize("caption", ["a\rb", "a\nb", 'a"b', "a,b", "a\tb", "a\0b"])
@pytest.mark.parametrize(("name", "delimiter"), [("out.csv", ","), ("out.tsv", "\t")])
def test_each_special_character_alone(journal, name, delimiter, caption):
    write_journal(journal, [make_record("x", caption), make_record("y", "plain")])
    target, _ = convert(journal, name)
    assert [row["caption"] for row in rows_of(target, delimiter)] == [caption.replace("\0", "\ufffd"), "plain"]
    assert (b'"plain"' in target.read_bytes(), b",plain" in target.read_bytes()) == (False, delimiter == ",")


def test_hostile_values_everywhere(journal):
    values = dict.fromkeys(["model", "finish_reason", "prompt_sha", "type"], 'x,"\r\n\t')
    write_journal(journal, [make_record('i,"d\n', image='i,"m\n', meta={'n,"\n': 'v,"\r'}, **values)])
    (row,) = as_csv(journal)
    assert {name: row[name] for name in values} == values
    assert (row["id"], row["image"], row['meta.n,"\n']) == ('i,"d\n', 'i,"m\n', 'v,"\r')


def test_errors_and_nulls(journal):
    write_journal(journal, [make_record("a.jpg", None, width=None), make_record("b.jpg", "")])
    failed, empty = as_csv(journal)
    assert (failed["status"], failed["caption"], failed["width"]) == ("error", "", "")
    assert (failed["error_kind"], failed["error_message"]) == ("DecodeError", "damaged: truncated")
    assert (empty["status"], empty["caption"], empty["error_kind"], empty["revision"]) == ("ok", "", "", "")


def test_pages(journal):
    write_journal(journal, [make_record("f.pdf#page=3", image="f.pdf", page=3), make_record("a.jpg")])
    assert [row["page"] for row in as_csv(journal)] == ["3", ""]
    table = as_parquet(journal)
    assert table["page"].to_pylist() == [3, None]
    assert table.schema.field("page").type == pyarrow.int32()


def test_columns_of_the_user(journal):
    metas = [{"score": 0.5, "tags": ["a", "b"]}, {"label": "x", "score": None}, {}, {"label": True}]
    write_journal(journal, [make_record(str(number), meta=meta) for number, meta in enumerate(metas)])
    rows = as_csv(journal)
    assert list(rows[0]) == [*RECORD_NAMES, "meta.score", "meta.tags", "meta.label"]
    found = [(row["meta.score"], row["meta.tags"], row["meta.label"]) for row in rows]
    assert found == [("0.5", '["a","b"]', ""), ("", "", "x"), ("", "", ""), ("", "", "true")]


@pytest.mark.parametrize(("num_names", "spread"), [(100, True), (101, False)])
def test_many_columns_of_the_user(journal, num_names, spread):
    write_journal(journal, [make_record(str(number), meta={f"name{number}": number}) for number in range(num_names)])
    rows = as_csv(journal)
    assert len(rows[0]) == len(RECORD_NAMES) + (num_names if spread else 1)
    found = [row[f"meta.name{number}"] if spread else row["meta"] for number, row in enumerate(rows)]
    assert found == [str(number) if spread else f'{{"name{number}":{number}}}' for number in range(num_names)]


def test_meta_that_is_no_object(journal):
    write_journal(journal, [make_record("a", meta={"x": 1}), make_record("b", meta=[1]), make_record("c", meta=None)])
    assert [row["meta"] for row in as_csv(journal)] == ['{"x":1}', "[1]", ""]
    assert as_parquet(journal)["meta"].to_pylist() == ['{"x":1}', "[1]", None]


def test_fields_that_only_some_records_have(journal):
    write_journal(journal, [make_record("a"), make_record("b", prompt="Why?", window=[1, 2.5], meta={"x": 1})])
    rows = as_csv(journal)
    assert list(rows[0])[len(RECORD_NAMES) :] == ["prompt", "window", "meta.x"]
    assert [(row["prompt"], row["window"], row["meta.x"]) for row in rows] == [("", "", ""), ("Why?", "[1,2.5]", "1")]


# ------------------------------------------------------------------------------------------------ parquet


def test_types(journal):
    record = make_record("a.jpg", settings={"dpi": 150}, meta={"i": 1, "f": 0.5, "b": True, "s": "x", "o": {"y": [1]}})
    write_journal(journal, [record, make_record("b.jpg", None, meta={"f": 2})])
    table = as_parquet(journal)
    types = {field.name: field.type for field in table.schema}
    string, int32, int64, double = pyarrow.string(), pyarrow.int32(), pyarrow.int64(), pyarrow.float64()
    assert types == {
        **dict.fromkeys(RECORD_NAMES, string),
        **dict.fromkeys(["page", "width", "height", "attempts"], int32),
        **dict.fromkeys(["prompt_tokens", "image_tokens", "output_tokens", "meta.i"], int64),
        **dict.fromkeys(["seconds", "meta.f"], double),
        **dict.fromkeys(["generated", "meta.b"], pyarrow.bool_()),
        **dict.fromkeys(["meta.s", "meta.o"], string),
    }
    assert list(types) == [*RECORD_NAMES, *(f"meta.{name}" for name in "ifbso")]
    first, second = table.to_pylist()
    assert {name: first[name] for name in ("id", "caption", "error_kind", "generated", "settings", "seconds")} == {
        **{"id": "a.jpg", "caption": "A dog.", "error_kind": None, "generated": True},
        **{"settings": '{"dpi":150}', "seconds": 0.25},
    }
    assert [first[f"meta.{name}"] for name in "ifbso"] == [1, 0.5, True, "x", '{"y":[1]}']
    assert [second[f"meta.{name}"] for name in "ifbso"] == [None, 2.0, None, None, None]
    assert (second["caption"], second["error_message"]) == (None, "damaged: truncated")


def test_hostile_captions_in_parquet(journal):
    write_journal(journal, [make_record(str(number), each) for number, each in enumerate(HOSTILE_CAPTIONS)])
    assert as_parquet(journal)["caption"].to_pylist() == list(HOSTILE_CAPTIONS)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, "x"], pyarrow.string(), ["1", "x"]),
        ([True, 1], pyarrow.string(), ["true", "1"]),
        ([True, "x", None], pyarrow.string(), ["true", "x", None]),
        ([1, 0.5], pyarrow.float64(), [1.0, 0.5]),
        ([2**63 - 1, -(2**63)], pyarrow.int64(), [2**63 - 1, -(2**63)]),
        ([2**63, 1], pyarrow.string(), ["9223372036854775808", "1"]),
        ([2**53 + 1, 0.5], pyarrow.float64(), [2.0**53, 0.5]),
        ([None, None], pyarrow.string(), [None, None]),
        ([[1], {"a": "\0"}], pyarrow.string(), ["[1]", '{"a":"\\u0000"}']),
        (["", "\0"], pyarrow.string(), ["", "\0"]),
    ],
)
def test_mixed_values_of_the_user(journal, values, kind, expected):
    write_journal(journal, [make_record(str(number), meta={"x": each}) for number, each in enumerate(values)])
    column = as_parquet(journal)["meta.x"]
    assert (column.type, column.to_pylist()) == (kind, expected)


def test_wrong_types_in_a_record(journal):
    wrong: dict[str, list[Any]] = {
        "width": ["wide", 640.0, 640.5, True, 2**31, -(2**31), {}, 2**64 - 1],
        "output_tokens": [2**63, 2**63 - 1, "7", 7.0, 1e300, [], False, None],
        "seconds": ["1.5", 2**64 - 1, 3, [], True, 1e300, {}, None],
        "generated": [1, "true", False, None, 0.0, [], {}, True],
        "caption": [7, ["a"], {"b": 1}, True, None, 0.5, "", "x"],
        "settings": ["text", 1, [1], None, {}, {"dpi": 1}, True, 0.5],
        "error": ["text", None, {"kind": 7}, [], {"kind": None, "message": ["m"]}, {}, 1, True],
    }
    records = [make_record(str(n)) | {name: values[n] for name, values in wrong.items()} for n in range(8)]
    write_journal(journal, records)
    table = as_parquet(journal)
    assert table["width"].to_pylist() == [None, 640, None, None, None, -(2**31), None, None]
    assert table["output_tokens"].to_pylist() == [None, 2**63 - 1, None, 7, None, None, None, None]
    assert table["seconds"].to_pylist() == [None, 2.0**64, 3.0, None, None, 1e300, None, None]
    assert table["generated"].to_pylist() == [None, None, False, None, None, None, None, True]
    assert table["caption"].to_pylist() == ["7", '["a"]', '{"b":1}', "true", None, "0.5", "", "x"]
    assert table["settings"].to_pylist() == ["text", "1", "[1]", None, "{}", '{"dpi":1}', "true", "0.5"]
    assert table["error_kind"].to_pylist() == [None, None, "7", None, None, None, None, None]
    assert table["error_message"].to_pylist() == [None, None, None, None, '["m"]', None, None, None]
    assert [row["caption"] for row in as_csv(journal)] == ["7", '["a"]', '{"b":1}', "true", "", "0.5", "", "x"]


def test_values_nested_deeper_than_is_written(journal):
    deep, deeper = ("[" * depth + "]" * depth for depth in (600, 1_000))
    journal.write_bytes(line_of(make_record("a", meta={"x": "@", "y": "@@"})).replace(b'"@"', deep.encode()))
    journal.write_bytes(journal.read_bytes().replace(b'"@@"', deeper.encode()))
    (row,) = as_csv(journal)
    assert (row["meta.x"], row["id"]) == (deep, "a")
    assert row["meta.y"] in (deeper, '"nested too deep"')  # which of them is Python's choice
    assert as_parquet(journal)["meta.x"].to_pylist() == [deep]


def test_the_mark_of_a_machine(journal):
    write_journal(journal, [make_record()])
    target, _ = convert(journal, "out.parquet")
    mark = json.loads(pyarrow.parquet.read_metadata(target).metadata[b"omnicap"])
    assert mark == {"generated": True, "omnicap": __version__, "journal": "run.jsonl"}


def test_row_groups(journal, monkeypatch):
    monkeypatch.setattr(tables, "MAX_GROUP_ROWS", 256)
    write_journal(journal, [make_record(f"{number:04}.jpg") for number in range(600)])
    target, outcome = convert(journal, "out.parquet")
    metadata = pyarrow.parquet.read_metadata(target)
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [256, 256, 88]
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert outcome.num_written == 600
    assert pyarrow.parquet.read_table(target)["id"].to_pylist() == [f"{number:04}.jpg" for number in range(600)]


def test_long_captions_make_small_row_groups(journal, monkeypatch):
    monkeypatch.setattr(table_columns, "_MAX_BATCH_BYTES", 500_000)
    monkeypatch.setattr(tables, "_MAX_GROUP_BYTES", 1_000_000)
    captions = [f"{number}" * 300_000 for number in range(9)]
    write_journal(journal, [make_record(str(number), each) for number, each in enumerate(captions)])
    target, _ = convert(journal, "out.parquet")
    assert pyarrow.parquet.read_metadata(target).num_row_groups == 3
    assert pyarrow.parquet.read_table(target)["caption"].to_pylist() == captions


# ---------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.parquet", "out.jsonl"])
@pytest.mark.parametrize("num_records", [0, 1, 127, 128, 129, 700])
def test_every_record_once_and_in_order(journal, name, num_records):
    names = [f"{number}.jpg" for number in range(num_records)]
    write_journal(journal, map(make_record, names))
    target, outcome = convert(journal, name)
    if name.endswith(".parquet"):
        found = pyarrow.parquet.read_table(target)["id"].to_pylist()
    elif name.endswith(".jsonl"):
        found = [json.loads(line)["id"] for line in target.read_bytes().splitlines()]
    else:
        found = [row["id"] for row in rows_of(target, "\t" if name.endswith(".tsv") else ",")]
    assert found == names
    assert outcome.num_written == num_records
    assert bool(outcome.warnings) == (num_records == 0)


def test_an_empty_journal_has_a_header_and_a_schema(journal):
    journal.touch()
    target, _ = convert(journal, "out.csv")
    assert target.read_bytes() == (",".join(RECORD_NAMES) + "\r\n").encode()
    table = as_parquet(journal)
    assert (table.column_names, table.num_rows) == (RECORD_NAMES, 0)
    assert table.schema.field("seconds").type == pyarrow.float64()


def test_sorted_and_limited(journal):
    write_journal(journal, [make_record(name) for name in ("c", "a", "d", "b")])
    assert [row["id"] for row in as_csv(journal, sort=True, limit=3)] == ["a", "b", "c"]
    assert [row["id"] for row in as_csv(journal, limit=1)] == ["c"]


def test_csv_to_stdout(journal):
    write_journal(journal, [make_record(f"{number}.jpg") for number in range(1_000)])
    written = io.BytesIO()
    export_journal(ExportConfig(journal=journal, format="csv"), show=written.write)
    target, _ = convert(journal, "out.csv")
    assert written.getvalue() == target.read_bytes()


@pytest.mark.parametrize("kind", [pyarrow.ArrowInvalid, OSError])
def test_an_interrupt_within_a_row_group_stays_an_interrupt(journal, monkeypatch, kind):
    """A parquet file can't be closed with some columns of a row group missing, and pyarrow says so."""

    def interrupted(groups, writer):
        raise KeyboardInterrupt

    def incomplete(writer):
        raise kind("Only 18 out of 25 columns are initialized")

    write_journal(journal, [make_record("a.jpg", "A cat.")])
    monkeypatch.setattr(tables, "_write_groups", interrupted)
    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "close", incomplete)
    with pytest.raises(KeyboardInterrupt):
        convert(journal, "out.parquet")
    assert not (journal.parent / "out.parquet").exists()


def test_no_group_is_written_past_an_interrupt_that_comes_while_the_thread_is_started(journal, monkeypatch):
    """It is raised in the start of a thread that runs already, and pyarrow dies if a file is closed that is written."""
    write_journal(journal, [make_record(f"{number}.jpg") for number in range(3)])
    begun, written, start = [], [], threading.Thread.start

    def interrupted(thread):
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", lambda *_args, **_more: written.append(True))
    with pytest.raises(KeyboardInterrupt):
        convert(journal, "out.parquet")
    begun[0].join(60)
    assert written == []
    assert not journal.with_name("out.parquet").exists()
