"""Manifests of every form become items with their columns; broken rows become errors, and end nothing else."""

from __future__ import annotations

import datetime
import gzip
import io
import itertools
import json
import os
import tarfile
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.media_samples import pdf, solid_png

from omnicap_cli.core.runs.records import Settings
from omnicap_cli.errors import ItemError, ManifestError
from omnicap_cli.media import manifests
from omnicap_cli.media.decode import decode
from omnicap_cli.media.manifests import json_value
from omnicap_cli.media.sources import Sources

RED, GREEN = (250, 10, 10), (10, 250, 10)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "d/c.png"):
        make(name)
    return tmp_path


def make(name, data=None):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(solid_png() if data is None else data if isinstance(data, bytes) else data.encode())
    return name


def items(*inputs, **options):
    return list(Sources(inputs=inputs, **options))


def found(*inputs, **options):
    """(id, columns or kind of error) of each item."""
    return [(item.id, item.error.kind if item.error else dict(item.meta)) for item in items(*inputs, **options)]


def message(*inputs, **options):
    (item,) = items(*inputs, **options)
    assert isinstance(item.error, ManifestError)
    return item.error.message


JSON_LINES = '{"image": "a.png", "title": "A", "n": 1}\n{"n": 2, "image": "b.png", "title": null}\n'
SAME = [("a.png", {"title": "A", "n": 1}), ("b.png", {"title": None, "n": 2})]
TEXT = [("a.png", {"title": "A", "n": "1"}), ("b.png", {"title": "", "n": "2"})]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.jsonl", JSON_LINES, SAME),
        ("m.ndjson", JSON_LINES, SAME),
        ("m.JSONL", JSON_LINES, SAME),
        ("m.jsonl", "\ufeff" + JSON_LINES.replace("\n", "\r\n\r\n"), SAME),
        ("m.jsonl", JSON_LINES.rstrip("\n"), SAME),
        ("m.json", f"[{JSON_LINES.strip().replace(chr(10), ',')}]", SAME),
        ("m.json", f"\ufeff \n [{JSON_LINES.strip().replace(chr(10), ',')}]\n", SAME),
        ("m.json", JSON_LINES, SAME),
        ("m.json", '{\n "image": "a.png",\n "title": "A", "n": 1\n}', SAME[:1]),
        ("m.csv", "image,title,n\na.png,A,1\nb.png,,2\n", TEXT),
        ("m.csv", "\ufeffimage,title,n\r\na.png,A,1\r\n\r\nb.png,,2", TEXT),
        ("m.csv", 'n,"image","title"\n1,"a.png","A"\n2,b.png,\n', TEXT),
        ("m.tsv", "image\ttitle\tn\na.png\tA\t1\nb.png\t\t2\n", TEXT),
        ("m.csv", 'image,title\na.png,"two\nlines, ""quoted"""\n', [("a.png", {"title": 'two\nlines, "quoted"'})]),
        ("m.jsonl.gz", gzip.compress(JSON_LINES.encode(), mtime=0), SAME),
        ("m.json.gz", gzip.compress(JSON_LINES.encode(), mtime=0), SAME),
        ("m.csv.gz", gzip.compress(b"image,title,n\na.png,A,1\nb.png,,2\n", mtime=0), TEXT),
    ],
)
def test_rows_become_items_with_their_columns(name, content, expected):
    assert found(make(name, content)) == expected


def test_rows_of_parquet_become_items_with_their_columns():
    pq.write_table(pa.table({"n": [1, 2], "image": ["a.png", "b.png"], "title": ["A", None]}), "m.parquet")
    assert found("m.parquet") == SAME


@pytest.mark.parametrize("content", ["", "\n\n", "[]", " [ ] "])
@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.csv"])
def test_an_empty_manifest_gives_nothing_or_one_error(name, content):
    if (name == "m.jsonl" and "[" in content) or (name == "m.csv" and content.strip()):
        assert [what for _, what in found(make(name, content))] == ["ManifestError"]
    elif name == "m.csv" and content == "\n\n":
        assert [what for _, what in found(make(name, content))] == ["ManifestError"]  # a header without columns
    else:
        assert found(make(name, content)) == []


def test_a_header_alone_gives_nothing():
    assert found(make("m.csv", "image,title\n")) == []
    pq.write_table(pa.table({"image": pa.array([], pa.string())}), "m.parquet")
    assert found("m.parquet") == []


# --- where pictures are


def test_the_id_column_names_the_item():
    make("m.csv", "image,id,n\na.png,first,1\nb.png,,2\n")
    assert found("m.csv") == [("first", {"n": "1"}), ("b.png", {"n": "2"})]
    make("m.jsonl", '{"image": "a.png", "id": 7}\n{"image": "b.png", "id": null}\n{"image": "d/c.png", "id": 0}\n')
    assert [name for name, _ in found("m.jsonl")] == ["7", "b.png", "0"]


def test_paths_count_from_the_folder_of_the_manifest_then_from_the_current_one():
    make("sets/m.csv", "image\nx.png\na.png\nnowhere.png\n")
    make("sets/x.png")
    make("x.png")
    assert found("sets/m.csv") == [("sets/x.png", {}), ("a.png", {}), ("sets/nowhere.png", "NotFoundError")]


def test_paths_count_from_image_root_if_there_is_one(here):
    make("sets/m.csv", f"image\nc.png\n{here}/a.png\n")
    assert found("sets/m.csv", image_root="d") == [("d/c.png", {}), (f"{here}/a.png", {})]
    assert found("sets/m.csv", image_root="sets")[0] == ("sets/c.png", "NotFoundError")


def test_another_column_can_hold_the_picture():
    make("m.csv", "file,image\na.png,one\n")
    assert found("m.csv", image_key="file") == [("a.png", {"image": "one"})]


def test_a_row_can_name_a_document_or_a_folder():
    make("two.pdf", pdf((10, 10), (10, 10)))
    make("m.csv", "image,n\ntwo.pdf,1\nd,2\n")
    assert found("m.csv") == [("two.pdf#page=1", {"n": "1"}), ("two.pdf#page=2", {"n": "1"}), ("d/c.png", {"n": "2"})]
    make("m.jsonl", '{"image": "d", "id": "x"}\n{"image": "two.pdf", "id": "y"}\n')
    assert found("m.jsonl") == [("x", "ManifestError"), ("y#page=1", {}), ("y#page=2", {})]


def test_a_row_can_name_an_archive():
    with tarfile.open("x.tar", "w") as archive:
        archive.add("a.png")
        archive.add("b.png")
    make("m.jsonl", '{"image": "x.tar", "n": 1}\n{"image": "./x.tar", "id": "y"}\n')
    members = [("x.tar#member=a.png", {"n": 1}), ("x.tar#member=b.png", {"n": 1})]
    assert found("m.jsonl") == [*members, ("y", "ManifestError")]


def test_a_manifest_in_a_row_is_no_picture():
    make("other.csv", "image\na.png\n")
    make("m.csv", "image\nother.csv\n")
    (item,) = items("m.csv")
    with pytest.raises(ItemError, match="not an image"):
        decode(item, Settings())


def test_names_that_are_not_utf_8_are_found():
    name = os.fsdecode(b"caf\xe9.png")
    make(name)
    Path("m.csv").write_bytes(b"image,t\ncaf\xe9.png,x\n")
    (item,) = items("m.csv")
    assert (item.id, item.error) == ("caf%E9.png", None)
    assert item.visuals[0].path == name


def test_texts_that_are_not_utf_8_are_errors_of_their_rows():
    Path("m.csv").write_bytes(b"image,t\na.png,caf\xe9\nb.png,caf\xc3\xa9\n")
    assert found("m.csv") == [("m.csv#row=1", "ManifestError"), ("b.png", {"t": "café"})]
    assert "iconv" in items("m.csv")[0].error.message
    make("16.csv", "image,t\na.png,x\n".encode("utf-16"))
    assert "utf-16" in message("16.csv")


def test_names_of_columns_may_be_any_bytes():
    Path("m.csv").write_bytes(b"image,gr\xf6\xdfe\na.png,9\n")
    (item,) = items("m.csv")
    json.dumps(dict(item.meta)).encode()
    assert list(item.meta.values()) == ["9"]


def test_a_quote_that_is_never_closed_is_an_error_where_it_begins():
    make("m.csv", 'image,t\na.png,x\nb.png,"never closed\nd/c.png,y\n')
    assert found("m.csv") == [("a.png", {"t": "x"}), ("m.csv#row=2", "ManifestError")]
    assert "never closed" in items("m.csv")[1].error.message
    make("m.tsv", 'image\tt\na.png\t5 inch" pipe\nb.png\t"5" inch\nd/c.png\ty\n')
    assert found("m.tsv") == [
        ("a.png", {"t": '5 inch" pipe'}),
        ("m.tsv#row=2", "ManifestError"),
        ("d/c.png", {"t": "y"}),
    ]


@pytest.mark.parametrize(
    ("name", "header", "part"),
    [
        ("m.csv", "image;title", "';'"),
        ("m.csv", "image\ttitle", "\\t"),
        ("m.tsv", "image,title", "','"),
        ("m.csv", "image,title,title", "'title' twice"),
        ("m.csv", 'image,"title', "never closed"),
    ],
)
def test_a_header_that_is_wrong_is_explained(name, header, part):
    assert part in message(make(name, f"{header}\na.png\n"))


def test_nan_as_python_writes_it_is_null():
    assert found(make("m.jsonl", '{"image": "a.png", "x": NaN, "y": [Infinity]}\n')) == [
        ("a.png", {"x": None, "y": [None]})
    ]


@pytest.mark.parametrize("name", ["m.jsonl", "m.json"])
@pytest.mark.parametrize("depth", [90, 253, 300, 2000])
def test_columns_nested_too_deep_are_errors_of_their_rows(name, depth):
    make(name, f'{{"image": "a.png", "x": {"[" * depth}{"]" * depth}}}\n{{"image": "b.png"}}\n')
    outcomes = [what if isinstance(what, str) else "ok" for _, what in found(name)]
    assert outcomes[0] == ("ok" if depth < 100 else "ManifestError")
    assert outcomes[1:] in (["ok"], [])  # some parsers can't go on after 2,000


def test_a_picture_within_a_text_is_no_path():
    make("m.jsonl", '{"image": "data:image/png;base64,AAAA"}\n')
    assert "names no picture" in message("m.jsonl")


# --- pictures inside of parquet


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_pictures_inside_of_parquet_are_items(form):
    contents = [solid_png(RED), solid_png(GREEN), None]
    kind = pa.binary() if form == "bytes" else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = contents if form == "bytes" else [{"bytes": each, "path": "0001.png"} for each in contents]
    pq.write_table(pa.table({"image": pa.array(column, kind), "n": [1, 2, 3]}), "m.parquet", row_group_size=2)
    found_items = items("m.parquet")
    assert [item.id for item in found_items[:2]] == ["m.parquet#row=1", "m.parquet#row=2"]
    assert [item.image for item in found_items[:2]] == ["m.parquet#row=1", "m.parquet#row=2"]
    path = {} if form == "bytes" else {"image.path": "0001.png"}
    assert [dict(item.meta) for item in found_items] == [{"n": 1, **path}, {"n": 2, **path}, {"n": 3}]
    colors = [decode(item, Settings()).image.getpixel((0, 0)) for item in found_items[:2]]
    assert colors == [RED, GREEN]
    if form == "bytes":
        assert isinstance(found_items[2].error, ManifestError)
    else:  # only the path is left of the third
        assert found_items[2].id == "0001.png"
        assert found_items[2].error.kind == "NotFoundError"


def test_a_document_inside_of_parquet_is_an_item_for_each_page():
    pq.write_table(pa.table({"image": [pdf((100, 50), (60, 70))]}), "m.parquet")
    found_items = items("m.parquet")
    assert [item.id for item in found_items] == ["m.parquet#row=1#page=1", "m.parquet#row=1#page=2"]
    assert [decode(item, Settings(dpi=72)).image.size for item in found_items] == [(100, 50), (60, 70)]


def test_columns_of_every_type_of_parquet_can_be_written_as_json():
    columns = {
        "time": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5)]),
        "nanos": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "date": pa.array([datetime.date(2026, 1, 2)]),
        "decimal": pa.array([Decimal("1.50")]),
        "nan": pa.array([float("nan")]),
        "big": pa.array([2**64 - 1], pa.uint64()),
        "list": pa.array([[1, None]]),
        "struct": pa.array([{"a": datetime.date(2026, 1, 2)}]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "binary": pa.array([b"\x00\xff"]),
        "dictionary": pa.array(["x"]).dictionary_encode(),
        "bool": pa.array([True]),
        "nothing": pa.array([None]),
    }
    pq.write_table(pa.table({"image": ["a.png"], **columns}), "m.parquet")
    (item,) = items("m.parquet")
    assert item.error is None
    meta = json.loads(json.dumps(dict(item.meta), allow_nan=False))
    assert meta.pop("nanos").startswith("2023-11-14 22:13:20.123456789")
    assert meta == {
        "time": "2026-01-02T03:04:05",
        "date": "2026-01-02",
        "decimal": "1.50",
        "nan": None,
        "big": 2**64 - 1,
        "list": [1, None],
        "struct": {"a": "2026-01-02"},
        "map": [["k", 1]],
        "dictionary": "x",
        "bool": True,
        "nothing": None,
    }


def moments(*values, unit="us", zone=None):
    """Times by their count since 1970."""
    return pa.array(values, pa.timestamp(unit, zone))


FAR = 253_402_300_800_000  # milliseconds to the year 10000, which Python doesn't have
FAR_TEXT = "10000-01-01 00:00:00.000"
NOON = 43_200_000
LATIN_1 = pa.array([b"caf\xe9", "café".encode()]).view(pa.string())  # the first
NOON_TEXT, NOON_ZONED = "1970-01-01T12:00:00", "1970-01-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (moments(2**62, NOON * 10**3), ["<value out of range: 4611686018427387904>", NOON_TEXT]),
        (moments(2**63 - 1, NOON * 10**3), ["<value out of range: 9223372036854775807>", NOON_TEXT]),
        (moments(FAR, NOON, unit="ms"), [FAR_TEXT, NOON_TEXT]),
        (moments(FAR // 1000, NOON // 1000, unit="s"), [FAR_TEXT, NOON_TEXT]),  # parquet keeps milliseconds
        (moments(FAR, NOON, unit="ms", zone="UTC"), [f"{FAR_TEXT}Z", NOON_ZONED]),
        (pa.array([2_932_897, 0], pa.date32()), ["10000-01-01", "1970-01-01"]),
        (pa.array([2**31 - 1, 0], pa.date32()), ["<value out of range: 2147483647>", "1970-01-01"]),
        (moments(NOON, 0, unit="ms", zone="Mars/Olympus"), [f"1970-01-01 {time}:00:00.000Z" for time in (12, "00")]),
        (moments(NOON * 10**6 + 1, None, unit="ns", zone="Mars/Olympus"), ["1970-01-01 12:00:00.000000001Z", None]),
        (pa.array([2**62, 1], pa.duration("s")), ["4611686018427387904", "0:00:01"]),
        (moments(FAR, NOON, unit="ms").dictionary_encode(), [FAR_TEXT, NOON_TEXT]),
        (pa.array([1, 1_500], pa.duration("ns")), [1, 1_500]),
        (LATIN_1, ["caf\\xe9", "café"]),
        (LATIN_1.dictionary_encode(), ["caf\\xe9", "café"]),
        (
            pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], ["a", "a"]),
            [[["a", 1], ["a", 3]], [["a", 2], ["a", 4]]],
        ),
    ],
)
def test_a_value_that_python_can_not_hold_costs_nothing_else(column, expected):
    pq.write_table(pa.table({"image": ["a.png", "b.png"], "t": column, "n": [1, 2]}), "m.parquet")
    assert found("m.parquet") == [("a.png", {"t": expected[0], "n": 1}), ("b.png", {"t": expected[1], "n": 2})]


NANOS = pa.timestamp("ns")
EVENING = 86_399_123_456_789  # nanoseconds
EVENING_TEXT = "1970-01-01 23:59:59.123456789"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.list_(NANOS), [EVENING, None, 0], [EVENING_TEXT, None, "1970-01-01T00:00:00"]),
        (pa.large_list(NANOS), [EVENING], [EVENING_TEXT]),
        (pa.list_(NANOS, 2), [EVENING, EVENING], [EVENING_TEXT, EVENING_TEXT]),
        (pa.struct({"at": NANOS, "n": pa.int8()}), {"at": EVENING, "n": 3}, {"at": EVENING_TEXT, "n": 3}),
        (pa.map_(pa.string(), NANOS), [("k", EVENING)], [["k", EVENING_TEXT]]),
        (pa.list_(pa.struct({"at": pa.list_(NANOS)})), [{"at": [EVENING]}], [{"at": [EVENING_TEXT]}]),
        (pa.list_(pa.time64("ns")), [EVENING], [EVENING_TEXT.split()[1]]),
    ],
)
def test_times_in_nanoseconds_within_others_are_text(kind, value, expected):
    table = pa.table({"image": ["a.png", "b.png"], "t": pa.array([value, None], kind)})
    pq.write_table(table, "m.parquet")
    assert found("m.parquet") == [("a.png", {"t": expected}), ("b.png", {"t": None})]


def test_no_row_is_lost_to_one_value_far_behind():
    names = [f"{number}.png" for number in range(3000)]
    times = moments(*(2**62 if number == 1500 else number * 10**6 for number in range(3000)))
    pq.write_table(pa.table({"image": ["a.png"] * 3000, "id": names, "t": times}), "m.parquet")
    rows = found("m.parquet")
    assert [name for name, _ in rows] == names
    odd = [(name, columns["t"]) for name, columns in rows if not columns["t"].startswith("1970-01-01T00:")]
    assert odd == [("1500.png", "<value out of range: 4611686018427387904>")]
    assert rows[2999][1] == {"t": "1970-01-01T00:49:59"}


def test_a_column_that_occurs_twice_is_one_error():
    for twice in ("image", "t"):
        names = ["image", "t", twice]
        pq.write_table(pa.Table.from_arrays([pa.array(["a.png"]), pa.array([""]), pa.array(["x"])], names), "m.parquet")
        assert f"the column '{twice}' twice" in message("m.parquet")


@pytest.mark.parametrize("kind", ["binary", "large", "fixed", "struct", "list"])
def test_few_pictures_inside_of_parquet_are_held(kind):
    pictures = pa.array([bytes([number]) * 2**18 for number in range(128)])
    columns = {
        "binary": pictures,
        "large": pictures.cast(pa.large_binary()),
        "fixed": pictures.cast(pa.binary(2**18)),
        "struct": pa.StructArray.from_arrays([pictures], ["bytes"]),
        "list": pa.ListArray.from_arrays(list(range(129)), pictures),
    }
    pq.write_table(pa.table({"image": columns[kind]}), "m.parquet")
    tracemalloc.start()
    try:
        with open("m.parquet", "rb") as file:
            assert sum(1 for _ in manifests.read_rows(file, "m.parquet", "image")) == 128
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**18  # as Python's values
    finally:
        tracemalloc.stop()


# --- what is wrong with manifests


def test_broken_lines_are_one_error_each():
    make(
        "m.jsonl",
        b'{"image": "a.png"}\n{nonsense\n[1]\n"x"\n\n{"title": 1}\n\xff\xfe\n{"image": 3}\n{"image": "b.png"}\n',
    )
    broken = [(f"m.jsonl#line={number}", "ManifestError") for number in (2, 3, 4, 6, 7, 8)]
    assert found("m.jsonl") == [("a.png", {}), *broken, ("b.png", {})]


@pytest.mark.parametrize("value", ["null", '""', "3", "[]", '["a.png"]', "{}", '{"url": "a.png"}', "true"])
def test_a_row_that_names_no_picture_is_an_error(value):
    make("m.jsonl", f'{{"image": {value}, "n": 1}}\n')
    assert "'image' names no picture" in message("m.jsonl")


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
def test_a_missing_column_is_one_error_that_lists_those_there(name):
    if name == "m.parquet":
        pq.write_table(pa.table({"file": ["a.png", "b.png"], "n": [1, 2]}), name)
    else:
        tab = "\t" if name == "m.tsv" else ","
        make(name, f"file{tab}n\na.png{tab}1\nb.png{tab}2\n")
    said = message(name)
    assert "'image'" in said
    assert "file, n" in said
    assert "--image-key" in said
    assert items(name)[0].id == name


def test_rows_of_csv_with_too_many_or_too_few_fields_are_errors():
    make("m.csv", "image,n\na.png\na.png,1,2\nb.png,3\n")
    assert found("m.csv") == [
        ("m.csv#row=1", "ManifestError"),
        ("m.csv#row=2", "ManifestError"),
        ("b.png", {"n": "3"}),
    ]


def test_a_csv_with_nuls_and_long_fields_is_read():
    make("m.csv", f"image,t\na.png,x\0y\nb.png,{'z' * 200_000}\n")
    assert found("m.csv") == [("a.png", {"t": "x\ufffdy"}), ("b.png", {"t": "z" * 200_000})]


def test_json_that_breaks_off_gives_what_was_there_and_an_error():
    make("m.json", '[{"image": "a.png"}, {"image": "b.png"}, {"ima')
    assert found("m.json") == [("a.png", {}), ("b.png", {}), ("m.json", "ManifestError")]
    make("m.json", '[{"image": "a.png"}, nonsense, {"image": "b.png"}]')
    assert found("m.json") == [("a.png", {}), ("m.json", "ManifestError")]
    make("m.json", '[{"image": "a.png"}, 3, {"image": "b.png"}]')
    assert found("m.json") == [("a.png", {}), ("m.json#row=2", "ManifestError"), ("b.png", {})]


@pytest.mark.parametrize("name", ["m.json", "m.json.gz"])
@pytest.mark.parametrize("head", ["", "\ufeff"])
@pytest.mark.parametrize(("begin", "between", "end"), [("[", ",", "]"), ("", "\n", "")])
def test_integers_of_json_can_be_of_any_size(name, head, begin, between, end):
    """After more rows than any buffer holds."""
    before = [f'{{"image": "a.png", "id": {number}, "x": 1.5}}' for number in range(5000)]
    large = [f'{{"image": "a.png", "id": "{n}", "n": [{n}]}}' for n in (2**63 - 1, 2**63, -(2**63) - 1, 2**70)]
    after = ['{"image": "a.png", "id": "\\ud800", "x": 0.25}']
    content = (head + begin + between.join(before + large + after) + end).encode()
    make(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert found(name) == [
        *((str(number), {"x": 1.5}) for number in range(5000)),
        (str(2**63 - 1), {"n": [2**63 - 1]}),
        (str(2**63), {"n": [2**63]}),
        (str(-(2**63) - 1), {"n": [str(-(2**63) - 1)]}),
        (str(2**70), {"n": [str(2**70)]}),
        ("\\ud800", {"x": 0.25}),
    ]


@pytest.mark.parametrize("number", ["9" * 5000, "1e400", "99999999999999999999x"])
def test_a_number_of_json_that_nobody_reads_ends_it_at_its_place(number):
    make("m.json", f'[{{"image": "a.png"}}, {{"image": "b.png", "n": {number}}}]')
    assert found("m.json") == [("a.png", {}), ("m.json", "ManifestError")]
    assert "after row 1:" in items("m.json")[1].error.message


@pytest.mark.parametrize("name", ["m.json", "m.json.gz"])
def test_json_from_a_pipe_can_not_begin_again(name):
    content = b'[{"image": "a.png"}, {"image": "b.png", "n": 99999999999999999999}]'
    here, there = os.pipe()
    with open(here, "rb") as source:
        with open(there, "wb") as target:
            target.write(gzip.compress(content) if name.endswith(".gz") else content)
        rows = manifests.read_rows(source, name, "image")
        assert next(rows) == ("row=1", {"image": "a.png"})
        with pytest.raises(ManifestError, match=r"after row 1:.*overflow"):
            next(rows)


def test_a_compressed_manifest_that_breaks_off_gives_what_was_there_and_an_error():
    lines = b"".join(
        b'{"image": "a.png", "id": "%d", "r": "%s"}\n' % (n, os.urandom(20).hex().encode()) for n in range(5000)
    )
    whole = gzip.compress(lines)
    make("m.jsonl.gz", whole[: len(whole) // 2])
    names = [name for name, _ in found("m.jsonl.gz")]
    assert names[-1] == "m.jsonl.gz"
    assert names[:-1] == [str(number) for number in range(len(names) - 1)]
    assert 2000 < len(names) < 3000
    make("m.csv.gz", b"no gzip")
    assert "broken" in message("m.csv.gz") or "breaks off" in message("m.csv.gz")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PAR1" + bytes(50) + b"PAR1"])
def test_what_is_no_parquet_is_one_error(content):
    make("m.parquet", content)
    assert found("m.parquet") == [("m.parquet", "ManifestError")]


def test_parquet_that_is_cut_or_damaged_is_an_error_at_its_place():
    table = pa.table({"image": ["a.png"] * 3000, "id": [str(number) for number in range(3000)]})
    pq.write_table(table, "m.parquet", row_group_size=1000, compression="none", use_dictionary=False)
    content = bytearray(Path("m.parquet").read_bytes())
    make("cut.parquet", bytes(content[:-10]))
    assert found("cut.parquet") == [("cut.parquet", "ManifestError")]
    middle = pq.ParquetFile("m.parquet").metadata.row_group(1).column(0).data_page_offset
    content[middle : middle + 40] = b"\xff" * 40
    make("damaged.parquet", bytes(content))
    names = [name for name, _ in found("damaged.parquet")]
    assert names[-1] == "damaged.parquet"
    assert names[:-1] == [str(number) for number in range(len(names) - 1)]
    assert len(names) <= 2001


@pytest.mark.parametrize(
    ("column", "kind"),
    [([1, 2], "int64"), ([1.5, None], "float64"), ([["a.png"], []], "list"), ([True, False], "bool")],
)
def test_a_column_of_another_type_is_an_error_for_each_row(column, kind):
    pq.write_table(pa.table({"image": column, "n": [1, 2]}), "m.parquet")
    assert found("m.parquet") == [("m.parquet#row=1", "ManifestError"), ("m.parquet#row=2", "ManifestError")]


def test_a_missing_manifest_is_one_error():
    assert found("m.csv", "gone.parquet") == [("m.csv", "NotFoundError"), ("gone.parquet", "NotFoundError")]


def test_a_folder_called_like_a_manifest_is_a_folder():
    make("x.json/a.png")
    assert found("x.json") == [("x.json/a.png", {})]


def test_one_id_for_two_pictures_is_a_duplicate():
    make("m.csv", "image,id\na.png,x\nb.png,x\na.png,x\n")
    assert found("m.csv") == [("x", {}), ("x", "DuplicateIdError")]


def test_the_same_picture_with_other_columns_is_a_duplicate():
    make("m.csv", "image,n\na.png,1\na.png,2\na.png,1\n")
    assert found("m.csv") == [("a.png", {"n": "1"}), ("a.png", "DuplicateIdError")]


def test_rows_come_as_they_are_read():
    """A manifest of any size: the first item is there before the second line is read."""

    class OneLine(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.given += 1
            assert self.given == 1, "it reads on"
            line = b'{"image": "a.png"}\n'
            buffer[: len(line)] = line
            return len(line)

    row = next(iter(manifests.read_rows(io.BufferedReader(OneLine()), "m.jsonl", "image")))
    assert row == ("line=1", {"image": "a.png"})


class Endless(io.RawIOBase):
    """A file of a head and lines without end, which counts the bytes that were read of it."""

    def __init__(self, head, line):
        self.num_given, self._waiting, self._line = 0, head, line

    def readable(self):
        return True

    def readinto(self, buffer):
        while len(self._waiting) < len(buffer):
            self._waiting += self._line
        buffer[:], self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        self.num_given += len(buffer)
        assert self.num_given < 1 << 24, "it reads all of it"
        return len(buffer)


@pytest.mark.parametrize(
    ("name", "head", "line", "columns"),
    [
        ("m.jsonl", b"", b'{"image": "a.png", "n": 1}\n', {"image": "a.png", "n": 1}),
        ("m.json", b"[\n", b'{"image": "a.png", "n": 1},\n', {"image": "a.png", "n": 1}),
        ("m.json", b"", b'{"image": "a.png", "n": 1}\n', {"image": "a.png", "n": 1}),
        ("m.csv", b"image,n\n", b"a.png,1\n", {"image": "a.png", "n": "1"}),
        ("m.tsv", b"image\tn\n", b"a.png\t1\n", {"image": "a.png", "n": "1"}),
    ],
)
def test_no_form_is_read_far_ahead_of_its_rows(name, head, line, columns):
    source = Endless(head, line)
    found = manifests.read_rows(io.BufferedReader(source), name, "image")
    for num_rows in (1, 9_999, 90_000):
        assert [row.columns for row in itertools.islice(found, num_rows)] == [columns] * num_rows
        ahead = source.num_given - len(head) - num_rows * len(line)
        assert ahead < 200_000 + 10_000 * len(line)  # buffers, and the rows before


@pytest.mark.parametrize("group_rows", [1000, 12_000])
def test_parquet_is_not_read_far_ahead_of_its_rows(group_rows):
    names = [f"{number:05}.png" for number in range(12_000)]
    pq.write_table(
        pa.table({"image": names, "r": [os.urandom(1500) for _ in names]}), "m.parquet", row_group_size=group_rows
    )
    row_bytes = os.path.getsize("m.parquet") / len(names)

    class Counted(io.FileIO):
        num_read = 0

        def readinto(self, buffer):
            count = super().readinto(buffer)
            self.num_read += count
            return count

    source, held = Counted("m.parquet"), pa.total_allocated_bytes()
    with io.BufferedReader(source) as file:
        for number, row in enumerate(manifests.read_rows(file, "m.parquet", "image")):
            assert row.columns["image"] == names[number]
            if number % 1000 == 0:  # the rows before, one batch of rows, buffers, and a dictionary of each column
                assert source.num_read < (number + 2500) * row_bytes + 600_000
                assert pa.total_allocated_bytes() - held < 3000 * row_bytes + 4_000_000
    assert number + 1 == len(names)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary() | st.dates(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_value_becomes_one_that_json_can_hold(value):
    text = json.dumps(json_value(value), allow_nan=False, ensure_ascii=False)
    text.encode()  # raises for a lone surrogate
    assert json.loads(text) == json_value(value)
