"""What is wrong with manifests becomes errors of their rows, or one of the whole, and ends nothing else."""

from __future__ import annotations

import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.manifest_items import columns_of, items_of, make_file, message_of
from support.manifest_items import here as here  # a fixture

from omnicap_cli.errors import ManifestError
from omnicap_cli.media import manifests


def test_broken_lines_are_one_error_each():
    make_file(
        "m.jsonl",
        b'{"image": "a.png"}\n{nonsense\n[1]\n"x"\n\n{"title": 1}\n\xff\xfe\n{"image": 3}\n{"image": "b.png"}\n',
    )
    broken = [(f"m.jsonl#line={number}", "ManifestError") for number in (2, 3, 4, 6, 7, 8)]
    assert columns_of("m.jsonl") == [("a.png", {}), *broken, ("b.png", {})]


@pytest.mark.parametrize("value", ["null", '""', "3", "[]", '["a.png"]', "{}", '{"url": "a.png"}', "true"])
def test_a_row_that_names_no_picture_is_an_error(value):
    make_file("m.jsonl", f'{{"image": {value}, "n": 1}}\n')
    assert "'image' names no picture" in message_of("m.jsonl")


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
def test_a_missing_column_is_one_error_that_lists_those_there(name):
    if name == "m.parquet":
        pq.write_table(pa.table({"file": ["a.png", "b.png"], "n": [1, 2]}), name)
    else:
        tab = "\t" if name == "m.tsv" else ","
        make_file(name, f"file{tab}n\na.png{tab}1\nb.png{tab}2\n")
    said = message_of(name)
    assert "'image'" in said
    assert "file, n" in said
    assert "--image-key" in said
    assert items_of(name)[0].id == name


def test_rows_of_csv_with_too_many_or_too_few_fields_are_errors():
    make_file("m.csv", "image,n\na.png\na.png,1,2\nb.png,3\n")
    assert columns_of("m.csv") == [
        ("m.csv#row=1", "ManifestError"),
        ("m.csv#row=2", "ManifestError"),
        ("b.png", {"n": "3"}),
    ]


def test_a_csv_with_nuls_and_long_fields_is_read():
    make_file("m.csv", f"image,t\na.png,x\0y\nb.png,{'z' * 200_000}\n")
    assert columns_of("m.csv") == [("a.png", {"t": "x\ufffdy"}), ("b.png", {"t": "z" * 200_000})]


def test_json_that_breaks_off_gives_what_was_there_and_an_error():
    make_file("m.json", '[{"image": "a.png"}, {"image": "b.png"}, {"ima')
    assert columns_of("m.json") == [("a.png", {}), ("b.png", {}), ("m.json", "ManifestError")]
    make_file("m.json", '[{"image": "a.png"}, nonsense, {"image": "b.png"}]')
    assert columns_of("m.json") == [("a.png", {}), ("m.json", "ManifestError")]
    make_file("m.json", '[{"image": "a.png"}, 3, {"image": "b.png"}]')
    assert columns_of("m.json") == [("a.png", {}), ("m.json#row=2", "ManifestError"), ("b.png", {})]


@pytest.mark.parametrize("name", ["m.json", "m.json.gz"])
@pytest.mark.parametrize("head", ["", "\ufeff"])
@pytest.mark.parametrize(("begin", "between", "end"), [("[", ",", "]"), ("", "\n", "")])
def test_integers_of_json_can_be_of_any_size(name, head, begin, between, end):
    """After more rows than any buffer holds."""
    before = [f'{{"image": "a.png", "id": {number}, "x": 1.5}}' for number in range(5000)]
    large = [f'{{"image": "a.png", "id": "{n}", "n": [{n}]}}' for n in (2**63 - 1, 2**63, -(2**63) - 1, 2**70)]
    after = ['{"image": "a.png", "id": "\\ud800", "x": 0.25}']
    content = (head + begin + between.join(before + large + after) + end).encode()
    make_file(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert columns_of(name) == [
        *((str(number), {"x": 1.5}) for number in range(5000)),
        (str(2**63 - 1), {"n": [2**63 - 1]}),
        (str(2**63), {"n": [2**63]}),
        (str(-(2**63) - 1), {"n": [str(-(2**63) - 1)]}),
        (str(2**70), {"n": [str(2**70)]}),
        ("\\ud800", {"x": 0.25}),
    ]


@pytest.mark.parametrize("number", ["9" * 5000, "1e400", "99999999999999999999x"])
def test_a_number_of_json_that_nobody_reads_ends_it_at_its_place(number):
    make_file("m.json", f'[{{"image": "a.png"}}, {{"image": "b.png", "n": {number}}}]')
    assert columns_of("m.json") == [("a.png", {}), ("m.json", "ManifestError")]
    assert "after row 1:" in items_of("m.json")[1].error.message


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
    make_file("m.jsonl.gz", whole[: len(whole) // 2])
    names = [name for name, _ in columns_of("m.jsonl.gz")]
    assert names[-1] == "m.jsonl.gz"
    assert names[:-1] == [str(number) for number in range(len(names) - 1)]
    assert 2000 < len(names) < 3000
    make_file("m.csv.gz", b"no gzip")
    assert "broken" in message_of("m.csv.gz") or "breaks off" in message_of("m.csv.gz")


def test_a_missing_manifest_is_one_error():
    assert columns_of("m.csv", "gone.parquet") == [("m.csv", "NotFoundError"), ("gone.parquet", "NotFoundError")]


def test_a_folder_called_like_a_manifest_is_a_folder():
    make_file("x.json/a.png")
    assert columns_of("x.json") == [("x.json/a.png", {})]
