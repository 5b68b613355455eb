"""Names and JSON lines on stdin become items; a broken line is one error."""

from __future__ import annotations

import pytest
from support.media_samples import pdf
from support.source_items import here as here  # a fixture
from support.source_items import ids_of, items_of, kinds_of, make_files


def test_paths_on_stdin(here):
    make_files("b.png", "a.png", "p/c.png")
    assert ids_of("-", stdin=b"b.png\na.png\np\n") == ["b.png", "a.png", "p/c.png"]


@pytest.mark.parametrize("text", [b"a.png\n\n\nb.png", b"\na.png\nb.png\n", b"a.png\r\nb.png\r\n", b"a.png\r\nb.png\r"])
def test_empty_lines_and_line_ends_of_stdin(here, text):
    make_files("a.png", "b.png")
    assert kinds_of("-", stdin=text) == {"a.png": "ok", "b.png": "ok"}


def test_empty_lines_of_another_system_are_empty(here):
    make_files("a.png")
    assert kinds_of("-", stdin=b"a.png\r\n\r\n\r\n") == {"a.png": "ok"}


def test_a_name_that_ends_in_a_carriage_return_is_found(here):
    make_files("a.png\r", "b.png")
    assert ids_of("-", stdin=b"a.png\r\nb.png\n") == ["a.png\r", "b.png"]


@pytest.mark.parametrize("rest", [b"a.png", b"a.png\n", b'{"image": "a.png"}', b"a.png\nb.png\n", b"\na.png"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(here, rest):
    make_files("a.png", "b.png")
    expected = ["a.png", "b.png"] if b"b.png" in rest else ["a.png"]
    assert [(item.id, item.error) for item in items_of("-", stdin=b"\xef\xbb\xbf" + rest)] == [
        (name, None) for name in expected
    ]


def test_a_byte_order_mark_before_nul_separated_names(here):
    make_files("a.png", "b.png")
    assert kinds_of("-", stdin=b"\xef\xbb\xbfa.png\0b.png\0", null=True) == {"a.png": "ok", "b.png": "ok"}


def test_a_byte_order_mark_later_on_belongs_to_the_name(here):
    make_files("a.png", "\ufeffb.png")
    assert kinds_of("-", stdin=b"a.png\n\xef\xbb\xbfb.png\n") == {"a.png": "ok", "\ufeffb.png": "ok"}


def test_nul_separated_names_may_hold_line_breaks(here):
    make_files("a\nb.png", "c.png", " d.png", "e.png ")
    found = ids_of("-", stdin=b"a\nb.png\0c.png\0 d.png\0e.png \0", null=True)
    assert found == ["a\nb.png", "c.png", " d.png", "e.png "]


def test_spaces_around_a_line_belong_to_the_name(here):
    make_files(" a.png", "b.png ")
    assert kinds_of("-", stdin=b" a.png\nb.png \n") == {" a.png": "ok", "b.png ": "ok"}


def test_an_empty_stdin_gives_nothing():
    assert items_of("-", stdin=b"") == []
    assert items_of("-", stdin=b"\n\n") == []


def test_a_glob_on_stdin_is_a_name(here):
    make_files("a.png")
    assert kinds_of("-", stdin=b"*.png\n") == {"*.png": "NotFoundError"}


def test_stdin_stands_where_it_is_named(here):
    make_files("a.png", "b.png", "c.png")
    assert ids_of("c.png", "-", "a.png", stdin=b"b.png\n") == ["c.png", "b.png", "a.png"]


def test_jsonl_with_ids_and_other_columns(here):
    make_files("a.png", "b.png", "c.png")
    text = b"""{"image": "a.png", "id": "first", "title": "A", "tags": [1, 2]}
{"image": "b.png"}
{"id": 7, "image": "./c.png"}
"""
    found = items_of("-", stdin=text)
    assert [(item.id, item.image, dict(item.meta)) for item in found] == [
        ("first", "a.png", {"title": "A", "tags": [1, 2]}),
        ("b.png", "b.png", {}),
        ("7", "c.png", {}),
    ]
    assert [item.error for item in found] == [None] * 3


@pytest.mark.parametrize("spaces", [b" ", b"   ", b"\t", b" \t "])
def test_jsonl_may_be_indented(here, spaces):
    make_files("a.png")
    found = items_of("-", stdin=spaces + b'{"image": "a.png", "id": "x"}\n')
    assert [(item.id, item.image, item.error) for item in found] == [("x", "a.png", None)]


def test_jsonl_that_names_a_folder_gives_its_columns_to_every_file(here):
    make_files("p/a.png", "p/sub/b.png", "p/sub/c.png")
    make_files("p/bad.pdf", data=b"Dear reader")
    (here / "p/up").symlink_to(".")
    found = items_of("-", stdin=b'{"image": "p", "source": "flickr"}\n')
    assert [item.id for item in found] == ["p/a.png", "p/bad.pdf", "p/sub/b.png", "p/sub/c.png", "p/up"]
    assert [dict(item.meta) for item in found] == [{"source": "flickr"}] * 5
    assert [item.error and item.error.kind for item in found] == [None, "UnsupportedError", None, None, "LinkLoopError"]


def test_an_id_can_not_name_all_files_of_a_folder(here):
    make_files("p/a.png", "p/b.png", "c.png")
    found = items_of("-", stdin=b'{"image": "p", "id": "x"}\n{"image": "c.png", "id": "y"}\n')
    assert [(item.id, item.error and item.error.kind) for item in found] == [("x", "ManifestError"), ("y", None)]
    assert "folder" in found[0].error.message


def test_jsonl_with_the_column_that_was_named(here):
    make_files("a.png")
    found = items_of("-", stdin=b'{"image": 3, "file": "a.png"}\n', image_key="file")
    assert [(item.id, dict(item.meta)) for item in found] == [("a.png", {"image": 3})]


def test_jsonl_with_crlf(here):
    make_files("a.png")
    assert kinds_of("-", stdin=b'{"image": "a.png"}\r\n') == {"a.png": "ok"}


def test_jsonl_that_names_a_pdf_gives_its_pages_the_id(here):
    make_files("a.pdf", data=pdf((10, 10), (10, 10)))
    found = items_of("-", stdin=b'{"image": "a.pdf", "id": "doc", "year": 1999}\n')
    assert [(item.id, item.visuals[0].page, dict(item.meta)) for item in found] == [
        ("doc#page=1", 1, {"year": 1999}),
        ("doc#page=2", 2, {"year": 1999}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"image": "a.png"',
        b'{"picture": "a.png"}',
        b'{"image": 3}',
        b'{"image": null}',
        b'{"image": ["a.png"]}',
        b"{a.png}",
        b'{"image": "\xff.png"}',
        b'{"image": "\\ud800.png"}',
        b"{}",
    ],
)
def test_a_broken_line_is_one_manifest_error(here, line):
    make_files("a.png", "b.png")
    found = items_of("-", stdin=b'{"image": "a.png"}\n' + line + b'\n{"image": "b.png"}\n')
    assert [item.error and item.error.kind for item in found] == [None, "ManifestError", None]
    assert found[1].error.message
    assert found[1].id.encode()


def test_the_message_of_a_missing_column_names_it_and_the_option(here):
    message = items_of("-", stdin=b'{"picture": "a.png"}\n')[0].error.message
    assert "'image'" in message
    assert "--image-key" in message


def test_a_missing_file_of_jsonl_keeps_its_id_and_columns(here):
    found = items_of("-", stdin=b'{"image": "gone.png", "id": "x", "title": "T"}\n')
    assert [(item.id, item.error.kind, dict(item.meta)) for item in found] == [("x", "NotFoundError", {"title": "T"})]


def test_a_name_with_nul_in_jsonl_is_an_error_of_the_item(here):
    make_files("a.png")
    found = items_of("-", stdin=b'{"image": "x\\u0000.png"}\n{"image": "a.png"}\n')
    assert [item.error is None for item in found] == [False, True]


def test_a_file_whose_name_begins_with_a_brace(here):
    make_files("{a}.png")
    assert kinds_of("-", stdin=b"{a}.png\n") == {"{a}.png": "ok"}


def test_two_broken_lines_that_begin_alike_are_two_errors(here):
    long = b'{"prompt": "' + b"x" * 300
    assert len(items_of("-", stdin=long + b"1\n" + long + b"2\n")) == 2
