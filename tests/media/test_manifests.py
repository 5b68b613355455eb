"""Manifests of every form become items with their columns, their pictures found wherever they are."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifest_items import columns_of, items_of, make_file, message_of
from support.manifest_items import here as here  # a fixture
from support.media_samples import pdf

from omnicap_cli.core.runs.records import Settings
from omnicap_cli.errors import ItemError
from omnicap_cli.media import manifests
from omnicap_cli.media.decode import decode
from omnicap_cli.media.manifests import json_value

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
    assert columns_of(make_file(name, content)) == expected


def test_rows_of_parquet_become_items_with_their_columns():
    pq.write_table(pa.table({"n": [1, 2], "image": ["a.png", "b.png"], "title": ["A", None]}), "m.parquet")
    assert columns_of("m.parquet") == SAME


@pytest.mark.parametrize("content", ["", "\n\n", "[]", " [ ] "])
@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.csv"])
def test_an_empty_manifest_gives_nothing_or_one_error(name, content):
    if (name == "m.jsonl" and "[" in content) or (name == "m.csv" and content.strip()):
        assert [what for _, what in columns_of(make_file(name, content))] == ["ManifestError"]
    elif name == "m.csv" and content == "\n\n":
        assert [what for _, what in columns_of(make_file(name, content))] == [
            "ManifestError"
        ]  # a header without columns
    else:
        assert columns_of(make_file(name, content)) == []


def test_a_header_alone_gives_nothing():
    assert columns_of(make_file("m.csv", "image,title\n")) == []
    pq.write_table(pa.table({"image": pa.array([], pa.string())}), "m.parquet")
    assert columns_of("m.parquet") == []


def test_the_id_column_names_the_item():
    make_file("m.csv", "image,id,n\na.png,first,1\nb.png,,2\n")
    assert columns_of("m.csv") == [("first", {"n": "1"}), ("b.png", {"n": "2"})]
    make_file("m.jsonl", '{"image": "a.png", "id": 7}\n{"image": "b.png", "id": null}\n{"image": "d/c.png", "id": 0}\n')
    assert [name for name, _ in columns_of("m.jsonl")] == ["7", "b.png", "0"]


def test_paths_count_from_the_folder_of_the_manifest_then_from_the_current_one():
    make_file("sets/m.csv", "image\nx.png\na.png\nnowhere.png\n")
    make_file("sets/x.png")
    make_file("x.png")
    assert columns_of("sets/m.csv") == [("sets/x.png", {}), ("a.png", {}), ("sets/nowhere.png", "NotFoundError")]


def test_paths_count_from_image_root_if_there_is_one(here):
    make_file("sets/m.csv", f"image\nc.png\n{here}/a.png\n")
    assert columns_of("sets/m.csv", image_root="d") == [("d/c.png", {}), (f"{here}/a.png", {})]
    assert columns_of("sets/m.csv", image_root="sets")[0] == ("sets/c.png", "NotFoundError")


def test_another_column_can_hold_the_picture():
    make_file("m.csv", "file,image\na.png,one\n")
    assert columns_of("m.csv", image_key="file") == [("a.png", {"image": "one"})]


def test_a_row_can_name_a_document_or_a_folder():
    make_file("two.pdf", pdf((10, 10), (10, 10)))
    make_file("m.csv", "image,n\ntwo.pdf,1\nd,2\n")
    assert columns_of("m.csv") == [
        ("two.pdf#page=1", {"n": "1"}),
        ("two.pdf#page=2", {"n": "1"}),
        ("d/c.png", {"n": "2"}),
    ]
    make_file("m.jsonl", '{"image": "d", "id": "x"}\n{"image": "two.pdf", "id": "y"}\n')
    assert columns_of("m.jsonl") == [("x", "ManifestError"), ("y#page=1", {}), ("y#page=2", {})]


def test_a_row_can_name_an_archive():
    with tarfile.open("x.tar", "w") as archive:
        archive.add("a.png")
        archive.add("b.png")
    make_file("m.jsonl", '{"image": "x.tar", "n": 1}\n{"image": "./x.tar", "id": "y"}\n')
    members = [("x.tar#member=a.png", {"n": 1}), ("x.tar#member=b.png", {"n": 1})]
    assert columns_of("m.jsonl") == [*members, ("y", "ManifestError")]


def test_a_manifest_in_a_row_is_no_picture():
    make_file("other.csv", "image\na.png\n")
    make_file("m.csv", "image\nother.csv\n")
    (item,) = items_of("m.csv")
    with pytest.raises(ItemError, match="not an image"):
        decode(item, Settings())


def test_names_that_are_not_utf_8_are_found():
    name = os.fsdecode(b"caf\xe9.png")
    make_file(name)
    Path("m.csv").write_bytes(b"image,t\ncaf\xe9.png,x\n")
    (item,) = items_of("m.csv")
    assert (item.id, item.error) == ("caf%E9.png", None)
    assert item.visuals[0].path == name


def test_texts_that_are_not_utf_8_are_errors_of_their_rows():
    Path("m.csv").write_bytes(b"image,t\na.png,caf\xe9\nb.png,caf\xc3\xa9\n")
    assert columns_of("m.csv") == [("m.csv#row=1", "ManifestError"), ("b.png", {"t": "café"})]
    assert "iconv" in items_of("m.csv")[0].error.message
    make_file("16.csv", "image,t\na.png,x\n".encode("utf-16"))
    assert "utf-16" in message_of("16.csv")


def test_names_of_columns_may_be_any_bytes():
    Path("m.csv").write_bytes(b"image,gr\xf6\xdfe\na.png,9\n")
    (item,) = items_of("m.csv")
    json.dumps(dict(item.meta)).encode()
    assert list(item.meta.values()) == ["9"]


def test_a_quote_that_is_never_closed_is_an_error_where_it_begins():
    make_file("m.csv", 'image,t\na.png,x\nb.png,"never closed\nd/c.png,y\n')
    assert columns_of("m.csv") == [("a.png", {"t": "x"}), ("m.csv#row=2", "ManifestError")]
    assert "never closed" in items_of("m.csv")[1].error.message
    make_file("m.tsv", 'image\tt\na.png\t5 inch" pipe\nb.png\t"5" inch\nd/c.png\ty\n')
    assert columns_of("m.tsv") == [
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
    assert part in message_of(make_file(name, f"{header}\na.png\n"))


def test_nan_as_python_writes_it_is_null():
    assert columns_of(make_file("m.jsonl", '{"image": "a.png", "x": NaN, "y": [Infinity]}\n')) == [
        ("a.png", {"x": None, "y": [None]})
    ]


@pytest.mark.parametrize("name", ["m.jsonl", "m.json"])
@pytest.mark.parametrize("depth", [90, 253, 300, 2000])
def test_columns_nested_too_deep_are_errors_of_their_rows(name, depth):
    make_file(name, f'{{"image": "a.png", "x": {"[" * depth}{"]" * depth}}}\n{{"image": "b.png"}}\n')
    outcomes = [what if isinstance(what, str) else "ok" for _, what in columns_of(name)]
    assert outcomes[0] == ("ok" if depth < 100 else "ManifestError")
    assert outcomes[1:] in (["ok"], [])  # some parsers can't go on after 2,000


def test_a_picture_within_a_text_is_no_path():
    make_file("m.jsonl", '{"image": "data:image/png;base64,AAAA"}\n')
    assert "names no picture" in message_of("m.jsonl")


def test_one_id_for_two_pictures_is_a_duplicate():
    make_file("m.csv", "image,id\na.png,x\nb.png,x\na.png,x\n")
    assert columns_of("m.csv") == [("x", {}), ("x", "DuplicateIdError")]


def test_the_same_picture_with_other_columns_is_a_duplicate():
    make_file("m.csv", "image,n\na.png,1\na.png,2\na.png,1\n")
    assert columns_of("m.csv") == [("a.png", {"n": "1"}), ("a.png", "DuplicateIdError")]


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
