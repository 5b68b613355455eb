"""Manifests of Parquet: pictures inside of them, values of every type, and no row lost to a neighbour."""

from __future__ import annotations

import datetime
import io
import json
import os
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.manifest_items import columns_of, items_of, make_file, message_of
from support.manifest_items import here as here  # a fixture
from support.media_samples import pdf, solid_png

from omnicap_cli.core.runs.records import Settings
from omnicap_cli.errors import ManifestError
from omnicap_cli.media import manifests
from omnicap_cli.media.decode import decode

RED, GREEN = (250, 10, 10), (10, 250, 10)


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_pictures_inside_of_parquet_are_items(form):
    contents = [solid_png(RED), solid_png(GREEN), None]
    kind = pa.binary() if form == "bytes" else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = contents if form == "bytes" else [{"bytes": each, "path": "0001.png"} for each in contents]
    pq.write_table(pa.table({"image": pa.array(column, kind), "n": [1, 2, 3]}), "m.parquet", row_group_size=2)
    found_items = items_of("m.parquet")
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
    found_items = items_of("m.parquet")
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
    (item,) = items_of("m.parquet")
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
    assert columns_of("m.parquet") == [("a.png", {"t": expected[0], "n": 1}), ("b.png", {"t": expected[1], "n": 2})]


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
    assert columns_of("m.parquet") == [("a.png", {"t": expected}), ("b.png", {"t": None})]


def test_no_row_is_lost_to_one_value_far_behind():
    names = [f"{number}.png" for number in range(3000)]
    times = moments(*(2**62 if number == 1500 else number * 10**6 for number in range(3000)))
    pq.write_table(pa.table({"image": ["a.png"] * 3000, "id": names, "t": times}), "m.parquet")
    rows = columns_of("m.parquet")
    assert [name for name, _ in rows] == names
    odd = [(name, columns["t"]) for name, columns in rows if not columns["t"].startswith("1970-01-01T00:")]
    assert odd == [("1500.png", "<value out of range: 4611686018427387904>")]
    assert rows[2999][1] == {"t": "1970-01-01T00:49:59"}


def test_a_column_that_occurs_twice_is_one_error():
    for twice in ("image", "t"):
        names = ["image", "t", twice]
        pq.write_table(pa.Table.from_arrays([pa.array(["a.png"]), pa.array([""]), pa.array(["x"])], names), "m.parquet")
        assert f"the column '{twice}' twice" in message_of("m.parquet")


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


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PAR1" + bytes(50) + b"PAR1"])
def test_what_is_no_parquet_is_one_error(content):
    make_file("m.parquet", content)
    assert columns_of("m.parquet") == [("m.parquet", "ManifestError")]


def test_parquet_that_is_cut_or_damaged_is_an_error_at_its_place():
    table = pa.table({"image": ["a.png"] * 3000, "id": [str(number) for number in range(3000)]})
    pq.write_table(table, "m.parquet", row_group_size=1000, compression="none", use_dictionary=False)
    content = bytearray(Path("m.parquet").read_bytes())
    make_file("cut.parquet", bytes(content[:-10]))
    assert columns_of("cut.parquet") == [("cut.parquet", "ManifestError")]
    middle = pq.ParquetFile("m.parquet").metadata.row_group(1).column(0).data_page_offset
    content[middle : middle + 40] = b"\xff" * 40
    make_file("damaged.parquet", bytes(content))
    names = [name for name, _ in columns_of("damaged.parquet")]
    assert names[-1] == "damaged.parquet"
    assert names[:-1] == [str(number) for number in range(len(names) - 1)]
    assert len(names) <= 2001


@pytest.mark.parametrize(
    ("column", "kind"),
    [([1, 2], "int64"), ([1.5, None], "float64"), ([["a.png"], []], "list"), ([True, False], "bool")],
)
def test_a_column_of_another_type_is_an_error_for_each_row(column, kind):
    pq.write_table(pa.table({"image": column, "n": [1, 2]}), "m.parquet")
    assert columns_of("m.parquet") == [("m.parquet#row=1", "ManifestError"), ("m.parquet#row=2", "ManifestError")]


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
