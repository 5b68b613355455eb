"""What a user names becomes a stream of items: every picture and page once, in a stable order, nothing held back."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import tarfile
import threading
import zipfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.media_samples import encrypted_pdf, pdf, permissions_bind, run_bound_by_permissions, solid_png

from omnicap_cli.core.files.words import printable
from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.errors import AccessError, OmnicapError
from omnicap_cli.media import local_files, sources, stdin_lines
from omnicap_cli.media.decode import decode
from omnicap_cli.media.names import path_of_shown, shown_path, split_chain, suffix_of, without_query
from omnicap_cli.media.sources import Sources, unique_items

PNG = solid_png()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one, so that ids are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names, data=PNG):
    for name in names:
        path = Path(os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def items(*inputs, stdin=None, **options):
    return list(Sources(inputs=inputs, stdin=None if stdin is None else io.BytesIO(stdin), **options))


def ids(*inputs, **options):
    return [item.id for item in items(*inputs, **options)]


def kinds(*inputs, **options):
    """id -> kind of error or "ok"."""
    found = items(*inputs, **options)
    named = {item.id: item.error.kind if item.error else "ok" for item in found}
    assert len(named) == len(found)
    assert all(item.error is None or item.error.message for item in found)
    return named


def within(seconds, call):
    """What `call` returns, if it does within `seconds`."""
    box = []
    thread = threading.Thread(target=lambda: box.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert box, "it waits"
    return box[0]


# --- folders


def test_a_folder_is_walked_in_the_order_of_names(here):
    make("p/b.png", "p/a.jpg", "p/a/z.gif", "p/a/b/c.webp", "p/c/1.tif", "p/B.bmp")
    assert ids("p") == ["p/B.bmp", "p/a/b/c.webp", "p/a/z.gif", "p/a.jpg", "p/b.png", "p/c/1.tif"]


def test_the_order_is_the_same_each_time_and_inputs_keep_theirs(here):
    make("p/b.png", "p/a.png", "q/c.png")
    assert ids("q", "p") == ["q/c.png", "p/a.png", "p/b.png"]
    assert ids("p/b.png", "p/a.png") == ["p/b.png", "p/a.png"]


def test_only_pictures_and_pdfs_of_a_folder_are_taken(here):
    make("p/a.png", "p/b.PNG", "p/c.JpEg", "p/notes.txt", "p/a.png.txt", "p/png", "p/d.heic", "p/e.eps", "p/f.svg")
    make("p/g.pdf", data=pdf((100, 100)))
    assert ids("p") == ["p/a.png", "p/b.PNG", "p/c.JpEg", "p/d.heic", "p/g.pdf#page=1"]


def test_hidden_files_are_taken_only_where_they_are_named(here):
    make("p/.a.png", "p/.git/b.png", "p/c.png", "._d.png")
    assert ids("p") == ["p/c.png"]
    assert ids("p/.a.png", "p/.git") == ["p/.a.png", "p/.git/b.png"]


def test_a_named_file_is_taken_whatever_its_suffix(here):
    make("scan", "scan.dat")
    assert kinds("scan", "scan.dat") == {"scan": "ok", "scan.dat": "ok"}


@pytest.mark.parametrize("given", ["p", "p/", "./p", "p//", ".//p/", "p/."])
def test_a_folder_gives_the_same_ids_however_it_is_spelled(here, given):
    make("p/a.png")
    assert ids(given) == ["p/a.png"]


def test_the_current_folder(here):
    make("a.png", "b/c.png")
    assert ids(".") == ["a.png", "b/c.png"]


def test_an_absolute_folder_keeps_its_path(here):
    make("a.png")
    assert ids(str(here)) == [f"{here}/a.png"]


def test_an_empty_folder_gives_nothing_and_a_warning(here):
    (here / "p").mkdir()
    make("q/notes.txt")
    said = []
    assert ids("p", "q", warn=said.append) == []
    assert len(said) == 2
    assert "in p" in said[0]
    assert "in q" in said[1]


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("s/b.parquet", "s/a.parquet", "s/.h.tar"), ".parquet files: name them, as 's/*.parquet'"),
        (("s/1.TAR.GZ", "s/2.tar"), ".TAR.GZ files: name them, as 's/*.TAR.GZ'"),
        (("s/rows.csv.gz", "s/x/a.txt"), ".csv.gz files: name them, as 's/*.csv.gz'"),
        (("s/.h.tar", "s/notes.txt", "s/x.tar/notes.txt"), None),
    ],
)
def test_a_folder_of_manifests_or_archives_says_how_to_name_them(here, names, hint):
    make(*names)
    (said,) = warnings_of("s")
    assert said == "no pictures or PDFs in s" + (f"; it holds {hint}" if hint else "")
    assert warnings_of("s/") == [said.replace("in s", "in s/")]


def test_the_pattern_that_a_folder_is_named_by_finds_what_is_in_it(here):
    make("odd[1]/rows.jsonl", data=b'{"image": "a.png"}\n')
    make("odd[1]/a.png.txt")
    (said,) = warnings_of("odd[1]")
    (pattern,) = re.findall("as '(.*)'$", said)
    assert kinds(pattern) == {"odd[1]/a.png": "NotFoundError"}
    assert warnings_of(str(here / "odd[1]"))[0].endswith(f"as '{here}/odd[[]1]/*.jsonl'")
    os.chdir("odd[1]")
    assert warnings_of(".")[0].endswith("name them, as '*.jsonl'")


def warnings_of(*inputs):
    """What is said of inputs that hold nothing."""
    said = []
    assert ids(*inputs, warn=said.append) == []
    return said


def test_linked_files_and_folders_are_followed(here):
    make("p/a.png", "far/b.png")
    (here / "p/far").symlink_to("../far")
    (here / "p/link.png").symlink_to("a.png")
    assert kinds("p") == {"p/a.png": "ok", "p/far/b.png": "ok", "p/link.png": "ok"}


def test_dangling_and_looping_links_are_one_error_each(here):
    make("p/good.png", "p/sub/good.png")
    (here / "p/dangling.png").symlink_to("nowhere.png")
    (here / "p/loop.png").symlink_to("loop.png")
    (here / "p/one.png").symlink_to("two.png")
    (here / "p/two.png").symlink_to("one.png")
    (here / "p/sub/up").symlink_to("..")
    assert kinds("p") == {
        "p/dangling.png": "NotFoundError",
        "p/good.png": "ok",
        "p/loop.png": "LinkLoopError",
        "p/one.png": "LinkLoopError",
        "p/sub/good.png": "ok",
        "p/sub/up": "LinkLoopError",
        "p/two.png": "LinkLoopError",
    }


def test_a_folder_that_links_to_itself(here):
    make("p/good.png")
    (here / "p/me").symlink_to(".")
    assert kinds("p") == {"p/good.png": "ok", "p/me": "LinkLoopError"}


def test_two_folders_that_link_to_each_other_end(here):
    make("p/a/1.png", "p/b/2.png")
    (here / "p/a/b").symlink_to("../b")
    (here / "p/b/a").symlink_to("../a")
    found = kinds("p")
    assert [name for name, kind in found.items() if kind == "ok"] == [
        "p/a/1.png",
        "p/a/b/2.png",
        "p/b/2.png",
        "p/b/a/1.png",
    ]
    assert {kind for name, kind in found.items() if name in ("p/a/b/a", "p/b/a/b")} == {"LinkLoopError"}
    assert len(found) == 6


def test_named_paths_that_are_not_there(here):
    (here / "dangling").symlink_to("nowhere")
    (here / "loop").symlink_to("loop")
    make("file")
    assert kinds("missing.png", "missing/", "dangling", "loop", "file/a.png") == {
        "missing.png": "NotFoundError",
        "missing/": "NotFoundError",
        "dangling": "NotFoundError",
        "loop": "LinkLoopError",
        "file/a.png": "AccessError",
    }


def test_a_link_whose_target_is_gone_is_told_from_a_missing_file(here):
    (here / "dangling.png").symlink_to("nowhere.png")
    dangling, missing = (item.error.message for item in items("dangling.png", "missing.png"))
    assert "link" in dangling
    assert "link" not in missing
    assert "no such file" in missing


def test_a_url_of_an_unknown_kind_is_an_error_and_keeps_its_spelling(here):
    make("a.png")
    url = "nonsense://example.org/a//b/./c.png?x=*"
    url_item, file_item = items(url, "a.png")
    assert (url_item.id, url_item.image, url_item.error.kind) == (url, url, "UnsupportedError")
    assert file_item.error is None


def test_a_name_longer_than_the_system_takes_is_an_error_of_its_own(here):
    make("a.png")
    assert list(kinds("x" * 300 + ".png", "a.png").values()) == ["AccessError", "ok"]


def test_an_empty_file_is_an_error(here):
    make("p/a.png")
    make("p/b.png", "p/c.pdf", data=b"")
    assert kinds("p") == {"p/a.png": "ok", "p/b.png": "EmptyFileError", "p/c.pdf": "EmptyFileError"}


@pytest.mark.parametrize("fingerprint", ["stat", "content"])
def test_a_fifo_is_not_opened(here, fingerprint):
    make("p/a.png")
    os.mkfifo("p/pipe.png")
    os.mkfifo("p/pipe.pdf")
    found = within(30, lambda: kinds("p", "p/pipe.png", fingerprint=fingerprint))
    assert found == {"p/a.png": "ok", "p/pipe.pdf": "AccessError", "p/pipe.png": "AccessError"}


def test_a_fifo_that_takes_the_place_of_a_picture_keeps_nobody_waiting(here):
    os.mkfifo("pipe.png")

    def said():
        with pytest.raises(AccessError) as caught:
            local_files.open_file("pipe.png")
        return caught.value.message

    assert within(30, said) == "not a regular file"


def test_who_writes_into_a_fifo_goes_on_waiting_for_its_reader(here):
    os.mkfifo("pipe.png")
    writer = threading.Thread(target=lambda: Path("pipe.png").write_bytes(PNG), daemon=True)
    writer.start()
    assert within(30, lambda: kinds("pipe.png")) == {"pipe.png": "AccessError"}
    with pytest.raises(AccessError):
        local_files.open_file("pipe.png")
    assert within(30, Path("pipe.png").read_bytes) == PNG
    writer.join(30)
    assert not writer.is_alive()


def test_a_folder_is_no_file_to_open(here):
    with pytest.raises(AccessError, match="Is a directory"):
        local_files.open_file(str(here))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", b"image\na.png\n"),
        ("m.jsonl", b'{"image": "a.png"}\n'),
        ("m.json", b'[{"image": "a.png"}]'),
        ("m.csv.gz", gzip.compress(b"image\na.png\n", mtime=0)),
    ],
)
def test_a_manifest_may_come_through_a_fifo(here, name, content):
    make("a.png")
    os.mkfifo(name)
    threading.Thread(target=lambda: Path(name).write_bytes(content), daemon=True).start()
    assert within(30, lambda: kinds(name)) == {"a.png": "ok"}


def test_parquet_which_is_read_from_its_end_comes_through_no_fifo(here):
    os.mkfifo("m.parquet")
    assert within(30, lambda: kinds("m.parquet")) == {"m.parquet": "AccessError"}


def test_a_device_is_not_read(here):
    assert within(30, lambda: kinds("/dev/zero", fingerprint="content")) == {"/dev/zero": "AccessError"}


LIST_KINDS = """
import json, sys
from omnicap_cli.media.sources import Sources
*inputs, fingerprint = sys.argv[1:]
found = Sources(inputs=tuple(inputs), fingerprint=fingerprint)
print(json.dumps([[item.id, item.error.kind if item.error else "ok"] for item in found]))
"""


@pytest.mark.parametrize(("fingerprint", "locked_file"), [("stat", "ok"), ("content", "AccessError")])
def test_what_may_not_be_read_is_an_error(here, fingerprint, locked_file):
    if not permissions_bind(str(here)):
        pytest.skip("root passes over permissions here, and may not give that up")
    make("p/a.png", "p/locked.png", "p/shut/b.png", "p/listed/c.png")
    make("p/locked.pdf", data=pdf((10, 10)))
    os.chmod("p/locked.png", 0)
    os.chmod("p/locked.pdf", 0)
    os.chmod("p/shut", 0)
    os.chmod("p/listed", 0o444)  # its names may be read, but no file in it
    done = run_bound_by_permissions(LIST_KINDS, str(here / "p"), fingerprint)
    os.chmod("p/shut", 0o700)
    os.chmod("p/listed", 0o700)
    assert done.returncode == 0, done.stderr
    assert {os.path.relpath(name, here): kind for name, kind in json.loads(done.stdout)} == {
        "p/a.png": "ok",
        "p/listed/c.png": "AccessError",
        "p/locked.pdf": "AccessError",
        "p/locked.png": locked_file,  # whether it can be read is seen by who reads it
        "p/shut": "AccessError",
    }


# --- globs


def test_a_quoted_glob(here):
    make("b.png", "a.png", "c.jpg", "sub/d.png", ".e.png")
    assert ids("*.png") == ["a.png", "b.png"]
    assert ids("?.*") == ["a.png", "b.png", "c.jpg"]
    assert ids("[bc].*") == ["b.png", "c.jpg"]


def test_a_recursive_glob(here):
    make("b.png", "s/a.png", "s/t/c.png", "s/t/d.jpg")
    assert ids("**/*.png") == ["b.png", "s/a.png", "s/t/c.png"]


def test_a_glob_that_matches_a_folder_takes_what_is_in_it(here):
    make("p1/a.png", "p2/b.png", "q/c.png")
    assert ids("p*") == ["p1/a.png", "p2/b.png"]


def test_a_glob_that_matches_nothing_warns(here):
    said = []
    assert ids("*.png", "**/x\n*.jpg", warn=said.append) == []
    assert len(said) == 2
    assert "*.png" in said[0]
    assert "\n" not in said[1]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(here):
    make("a[1].png", "a1.png", "*.png", "what?.png")
    assert ids("a[1].png") == ["a[1].png"]
    assert ids("*.png") == ["*.png"]
    assert ids("what?.png") == ["what?.png"]


def test_a_glob_meets_broken_links(here):
    make("a.png")
    (here / "b.png").symlink_to("nowhere")
    assert kinds("*.png") == {"a.png": "ok", "b.png": "NotFoundError"}


# --- PDFs


def test_a_pdf_is_an_item_for_each_page(here):
    make("p/doc.pdf", "p/Other.PDF", data=pdf((100, 100), (200, 100), (100, 200)))
    found = items("p/doc.pdf")
    assert [item.id for item in found] == ["p/doc.pdf#page=1", "p/doc.pdf#page=2", "p/doc.pdf#page=3"]
    assert [item.visuals[0] for item in found] == [
        MediaRef(path="p/doc.pdf", page=page, kind="pdf") for page in (1, 2, 3)
    ]
    assert {item.image for item in found} == {"p/doc.pdf"}
    assert len({item.fingerprint for item in found}) == 1
    assert ids("p/Other.PDF")[2] == "p/Other.PDF#page=3"


def test_a_pdf_that_cant_be_opened_is_one_error(here):
    make("damaged.pdf", data=b"%PDF-1.4\nnothing else")
    make("letter.pdf", data=b"Dear reader")
    make("locked.pdf", data=encrypted_pdf(user_password=b"secret", owner_password=b"owner"))
    assert kinds(".") == {
        "damaged.pdf": "DecodeError",
        "letter.pdf": "UnsupportedError",
        "locked.pdf": "EncryptedError",
    }


def test_a_pdf_that_claims_a_million_pages_is_few_items(here):
    make("a.png")
    make("a.pdf", data=pdf((10, 10), count=1_000_000))
    found = ids("a.pdf", "a.png")
    assert (found[0], found[-1]) == ("a.pdf#page=1", "a.png")
    assert len(found) <= 5


def test_a_pdf_of_a_thousand_pages_comes_page_by_page(here, monkeypatch):
    make("long.pdf", data=pdf((20, 10), *[(10, 10)] * 998, (10, 30)))
    made, make_item = [], sources._item

    def counting(*arguments, **options):
        made.append(arguments)
        return make_item(*arguments, **options)

    monkeypatch.setattr(sources, "_item", counting)
    found = iter(Sources(inputs=("long.pdf",)))
    first = next(found)
    assert len(made) == 1
    *others, last = found
    assert (first.id, last.id, len(others)) == ("long.pdf#page=1", "long.pdf#page=1000", 998)
    assert [decode(item, Settings(dpi=72)).image.size for item in (first, last)] == [(20, 10), (10, 30)]


# --- stdin


def test_paths_on_stdin(here):
    make("b.png", "a.png", "p/c.png")
    assert ids("-", stdin=b"b.png\na.png\np\n") == ["b.png", "a.png", "p/c.png"]


@pytest.mark.parametrize("text", [b"a.png\n\n\nb.png", b"\na.png\nb.png\n", b"a.png\r\nb.png\r\n", b"a.png\r\nb.png\r"])
def test_empty_lines_and_line_ends_of_stdin(here, text):
    make("a.png", "b.png")
    assert kinds("-", stdin=text) == {"a.png": "ok", "b.png": "ok"}


def test_empty_lines_of_another_system_are_empty(here):
    make("a.png")
    assert kinds("-", stdin=b"a.png\r\n\r\n\r\n") == {"a.png": "ok"}


def test_a_name_that_ends_in_a_carriage_return_is_found(here):
    make("a.png\r", "b.png")
    assert ids("-", stdin=b"a.png\r\nb.png\n") == ["a.png\r", "b.png"]


@pytest.mark.parametrize("rest", [b"a.png", b"a.png\n", b'{"image": "a.png"}', b"a.png\nb.png\n", b"\na.png"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(here, rest):
    make("a.png", "b.png")
    expected = ["a.png", "b.png"] if b"b.png" in rest else ["a.png"]
    assert [(item.id, item.error) for item in items("-", stdin=b"\xef\xbb\xbf" + rest)] == [
        (name, None) for name in expected
    ]


def test_a_byte_order_mark_before_nul_separated_names(here):
    make("a.png", "b.png")
    assert kinds("-", stdin=b"\xef\xbb\xbfa.png\0b.png\0", null=True) == {"a.png": "ok", "b.png": "ok"}


def test_a_byte_order_mark_later_on_belongs_to_the_name(here):
    make("a.png", "\ufeffb.png")
    assert kinds("-", stdin=b"a.png\n\xef\xbb\xbfb.png\n") == {"a.png": "ok", "\ufeffb.png": "ok"}


def test_nul_separated_names_may_hold_line_breaks(here):
    make("a\nb.png", "c.png", " d.png", "e.png ")
    found = ids("-", stdin=b"a\nb.png\0c.png\0 d.png\0e.png \0", null=True)
    assert found == ["a\nb.png", "c.png", " d.png", "e.png "]


def test_spaces_around_a_line_belong_to_the_name(here):
    make(" a.png", "b.png ")
    assert kinds("-", stdin=b" a.png\nb.png \n") == {" a.png": "ok", "b.png ": "ok"}


def test_an_empty_stdin_gives_nothing():
    assert items("-", stdin=b"") == []
    assert items("-", stdin=b"\n\n") == []


def test_a_glob_on_stdin_is_a_name(here):
    make("a.png")
    assert kinds("-", stdin=b"*.png\n") == {"*.png": "NotFoundError"}


def test_stdin_stands_where_it_is_named(here):
    make("a.png", "b.png", "c.png")
    assert ids("c.png", "-", "a.png", stdin=b"b.png\n") == ["c.png", "b.png", "a.png"]


def test_jsonl_with_ids_and_other_columns(here):
    make("a.png", "b.png", "c.png")
    text = b"""{"image": "a.png", "id": "first", "title": "A", "tags": [1, 2]}
{"image": "b.png"}
{"id": 7, "image": "./c.png"}
"""
    found = items("-", stdin=text)
    assert [(item.id, item.image, dict(item.meta)) for item in found] == [
        ("first", "a.png", {"title": "A", "tags": [1, 2]}),
        ("b.png", "b.png", {}),
        ("7", "c.png", {}),
    ]
    assert [item.error for item in found] == [None] * 3


@pytest.mark.parametrize("spaces", [b" ", b"   ", b"\t", b" \t "])
def test_jsonl_may_be_indented(here, spaces):
    make("a.png")
    found = items("-", stdin=spaces + b'{"image": "a.png", "id": "x"}\n')
    assert [(item.id, item.image, item.error) for item in found] == [("x", "a.png", None)]


def test_jsonl_that_names_a_folder_gives_its_columns_to_every_file(here):
    make("p/a.png", "p/sub/b.png", "p/sub/c.png")
    make("p/bad.pdf", data=b"Dear reader")
    (here / "p/up").symlink_to(".")
    found = items("-", stdin=b'{"image": "p", "source": "flickr"}\n')
    assert [item.id for item in found] == ["p/a.png", "p/bad.pdf", "p/sub/b.png", "p/sub/c.png", "p/up"]
    assert [dict(item.meta) for item in found] == [{"source": "flickr"}] * 5
    assert [item.error and item.error.kind for item in found] == [None, "UnsupportedError", None, None, "LinkLoopError"]


def test_an_id_can_not_name_all_files_of_a_folder(here):
    make("p/a.png", "p/b.png", "c.png")
    found = items("-", stdin=b'{"image": "p", "id": "x"}\n{"image": "c.png", "id": "y"}\n')
    assert [(item.id, item.error and item.error.kind) for item in found] == [("x", "ManifestError"), ("y", None)]
    assert "folder" in found[0].error.message


def test_jsonl_with_the_column_that_was_named(here):
    make("a.png")
    found = items("-", stdin=b'{"image": 3, "file": "a.png"}\n', image_key="file")
    assert [(item.id, dict(item.meta)) for item in found] == [("a.png", {"image": 3})]


def test_jsonl_with_crlf(here):
    make("a.png")
    assert kinds("-", stdin=b'{"image": "a.png"}\r\n') == {"a.png": "ok"}


def test_jsonl_that_names_a_pdf_gives_its_pages_the_id(here):
    make("a.pdf", data=pdf((10, 10), (10, 10)))
    found = items("-", stdin=b'{"image": "a.pdf", "id": "doc", "year": 1999}\n')
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
    make("a.png", "b.png")
    found = items("-", stdin=b'{"image": "a.png"}\n' + line + b'\n{"image": "b.png"}\n')
    assert [item.error and item.error.kind for item in found] == [None, "ManifestError", None]
    assert found[1].error.message
    assert found[1].id.encode()


def test_the_message_of_a_missing_column_names_it_and_the_option(here):
    message = items("-", stdin=b'{"picture": "a.png"}\n')[0].error.message
    assert "'image'" in message
    assert "--image-key" in message


def test_a_missing_file_of_jsonl_keeps_its_id_and_columns(here):
    found = items("-", stdin=b'{"image": "gone.png", "id": "x", "title": "T"}\n')
    assert [(item.id, item.error.kind, dict(item.meta)) for item in found] == [("x", "NotFoundError", {"title": "T"})]


def test_a_name_with_nul_in_jsonl_is_an_error_of_the_item(here):
    make("a.png")
    found = items("-", stdin=b'{"image": "x\\u0000.png"}\n{"image": "a.png"}\n')
    assert [item.error is None for item in found] == [False, True]


def test_a_file_whose_name_begins_with_a_brace(here):
    make("{a}.png")
    assert kinds("-", stdin=b"{a}.png\n") == {"{a}.png": "ok"}


def test_two_broken_lines_that_begin_alike_are_two_errors(here):
    long = b'{"prompt": "' + b"x" * 300
    assert len(items("-", stdin=long + b"1\n" + long + b"2\n")) == 2


# --- names

ODD = b"caf\xe9.png"  # Latin-1
ODD_PERCENT = b"100%\xe9.png"


def test_names_that_are_not_utf8_are_percent_encoded_and_lead_back(here):
    make(ODD, ODD_PERCENT, b"d\xff/\xfe.png", "plain 100%.png", "naïve.png")
    found = items(".")
    assert sorted(item.id for item in found) == [
        "100%25%E9.png",
        "caf%E9.png",
        "d%FF/%FE.png",
        "naïve.png",
        "plain 100%.png",
    ]
    assert all(item.error is None for item in found)
    for item in found:
        item.id.encode()
        item.image.encode()
        if os.fsencode(item.visuals[0].path) != item.visuals[0].path.encode("utf-8", "replace"):
            assert os.path.samefile(path_of_shown(item.id), item.visuals[0].path)


def test_names_that_are_not_utf8_on_stdin_and_as_arguments(here):
    make(ODD)
    assert kinds("-", stdin=ODD + b"\n") == {"caf%E9.png": "ok"}
    assert kinds(os.fsdecode(ODD)) == {"caf%E9.png": "ok"}


def test_a_pdf_whose_name_is_not_utf8(here):
    make(b"caf\xe9.pdf", data=pdf((10, 10), (10, 10)))
    assert kinds(".") == {"caf%E9.pdf#page=1": "ok", "caf%E9.pdf#page=2": "ok"}


def test_names_with_line_breaks_and_control_characters_are_kept(here):
    make("a\nb.png", "tab\t.png", "esc\x1b[31m.png")
    assert sorted(ids(".")) == ["a\nb.png", "esc\x1b[31m.png", "tab\t.png"]
    assert printable("a\nb\x1b[31m") == r"a\nb\x1b[31m"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("./a//b.png", "a/b.png"),
        (".//a/./b.png", "a/b.png"),
        ("././././b.png", "b.png"),
        ("a/././/b.png", "a/b.png"),
        ("../a.png", "../a.png"),  # .. is not resolved: with links it may lead elsewhere
        ("a/../b.png", "a/../b.png"),
        ("/a//b.png", "/a/b.png"),
        ("a.png/", "a.png/"),
        (".hidden/b.png", ".hidden/b.png"),
        ("a./b.png", "a./b.png"),
        ("...png", "...png"),
    ],
)
def test_paths_are_shown_without_empty_steps(path, shown):
    assert shown_path(path) == shown


names = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name)


@given(names)
def test_every_name_is_shown_as_utf8_and_a_percent_encoded_one_leads_back(name):
    path = "p/" + os.fsdecode(name)
    shown = shown_path(path)
    shown.encode()
    try:
        name.decode()
    except UnicodeDecodeError:
        assert os.fsencode(path_of_shown(shown)) == b"p/" + name
    else:
        assert shown.encode() == b"p/" + name or name in (b".",)


# --- duplicates


def test_an_item_given_twice_comes_once(here):
    make("p/a.png", "p/b.png")
    assert ids("p/b.png", "p", "p/a.png", "p/*.png") == ["p/b.png", "p/a.png"]


@pytest.mark.parametrize("again", ["./p/a.png", "p//a.png", "./p", "p/"])
def test_an_item_given_again_in_another_spelling_is_no_other_item(here, again):
    make("p/a.png")
    assert kinds("p/a.png", again) == {"p/a.png": "ok"}


def test_two_pictures_with_one_id_are_an_error_of_the_second(here):
    make("a.png", "b.png")
    found = items("-", stdin=b'{"image": "a.png", "id": "x"}\n{"image": "b.png", "id": "x"}\n')
    assert [(item.id, item.visuals[0].path, item.error and item.error.kind) for item in found] == [
        ("x", "a.png", None),
        ("x", "b.png", "DuplicateIdError"),
    ]


def test_rows_of_one_picture_with_other_columns_are_not_dropped_in_silence(here):
    make("a.png")
    rows = [
        b'{"image": "a.png", "question": "Who?", "n": 1}',
        b'{"n": 1, "image": "./a.png", "question": "Who?"}',  # the same, said differently
        b'{"image": "a.png", "question": "Where?", "n": 1}',
        b'{"image": "a.png", "question": "Where?", "n": 1}',
        b'{"image": "a.png"}',
    ]
    found = items("-", stdin=b"\n".join(rows))
    assert [(item.id, item.meta.get("question"), item.error and item.error.kind) for item in found] == [
        ("a.png", "Who?", None),
        ("a.png", "Where?", "DuplicateIdError"),
        ("a.png", None, "DuplicateIdError"),
    ]


def test_a_name_that_reads_like_a_percent_encoded_one(here):
    make(b"caf\xe9.png", "caf%E9.png")
    found = items(".")
    assert [item.id for item in found] == ["caf%E9.png"] * 2
    assert [item.error and item.error.kind for item in found] == [None, "DuplicateIdError"]


def test_unique_items_keeps_the_first_and_its_order():
    def item(name, path, page=None):
        return Item(id=name, image=path, visuals=(MediaRef(path=path, page=page),), fingerprint="f")

    given = [item("b", "b"), item("a", "a"), item("b", "b"), item("d#page=1", "d", 1), item("d#page=1", "d", 2)]
    found = list(unique_items(given))
    assert [(each.id, each.error and each.error.kind) for each in found] == [
        ("b", None),
        ("a", None),
        ("d#page=1", None),
        ("d#page=1", "DuplicateIdError"),
    ]


# --- fingerprints


def fingerprint(kind, name="a.png"):
    (item,) = items(name, fingerprint=kind)
    return item.fingerprint


@pytest.mark.parametrize("name", ["a.png", "a.pdf"])
def test_the_stat_fingerprint_is_of_size_and_time(here, name):
    make(name, data=PNG if name == "a.png" else pdf((10, 10)))
    os.utime(name, ns=(1, 1_000_000_001))
    before = fingerprint("stat", name)
    assert fingerprint("stat", name) == before
    os.utime(name, ns=(5, 1_000_000_001))  # reading it changes nothing
    assert fingerprint("stat", name) == before
    os.utime(name, ns=(1, 1_000_000_002))
    assert fingerprint("stat", name) != before
    os.utime(name, ns=(1, 1_000_000_001))
    with open(name, "ab") as file:
        file.write(b"\n")
    os.utime(name, ns=(1, 1_000_000_001))
    assert fingerprint("stat", name) != before


@pytest.mark.parametrize("name", ["a.png", "a.pdf"])
def test_the_content_fingerprint_is_of_the_bytes(here, name):
    data = PNG if name == "a.png" else pdf((10, 10))
    make(name, data=data)
    os.utime(name, ns=(1, 1))
    before, stat_before = fingerprint("content", name), fingerprint("stat", name)
    os.utime(name, ns=(2, 2))
    assert fingerprint("content", name) == before
    make(name, data=data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(name, ns=(1, 1))
    assert fingerprint("stat", name) == stat_before
    assert fingerprint("content", name) != before


def test_the_content_fingerprint_is_the_same_under_another_name(here):
    make("a.png", "b.png")
    assert fingerprint("content", "a.png") == fingerprint("content", "b.png")


def test_a_big_file_is_hashed_whole(here):
    make("a.png", data=PNG + b"\0" * (3 << 20))
    before = fingerprint("content")
    make("a.png", data=PNG + b"\0" * ((3 << 20) - 1) + b"\1")
    assert fingerprint("content") != before


# --- laziness


def test_the_first_item_of_a_tree_comes_without_listing_the_rest(here, monkeypatch):
    make("p/a/1.png", "p/a/2.png", "p/b/3.png", "p/c/d/4.png")
    listed = []
    scandir = os.scandir

    def counting(path):
        listed.append(os.path.relpath(path, "p"))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    found = iter(Sources(inputs=("p",)))
    assert next(found).id == "p/a/1.png"
    assert listed == [".", "a"]
    assert [item.id for item in found] == ["p/a/2.png", "p/b/3.png", "p/c/d/4.png"]
    assert listed == [".", "a", "b", "c", "c/d"]


def test_a_later_input_is_not_touched_before_its_turn(here):
    make("a.png")
    found = iter(Sources(inputs=("a.png", "b.png")))
    assert next(found).id == "a.png"
    make("b.png")
    assert next(found).error is None


@pytest.mark.parametrize(("end", "null"), [(b"\n", False), (b"\r\n", False), (b"\0", True)])
def test_a_slow_pipe_gives_each_item_as_its_line_comes(here, end, null):
    make("a.png", "b.png", "c.png")
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as stdin, contextlib.closing(os.fdopen(write_end, "wb", 0)) as pipe:
        found = iter(Sources(inputs=("-",), stdin=stdin, null=null))
        pipe.write(b"a.png" + end)
        assert within(30, lambda: next(found).id) == "a.png"
        pipe.write(b"b.p")  # half a line is no item yet
        pipe.write(b"ng" + end + b"c.png")
        assert within(30, lambda: next(found).id) == "b.png"
        pipe.close()
        assert within(30, lambda: [item.id for item in found]) == ["c.png"]


def test_a_long_stream_of_lines(here):
    make("a.png", "b.png")
    lines = b"".join(b"%s/%d.png\n" % (b"x" * 100, number) for number in range(30_000))
    found = Sources(inputs=("-",), stdin=io.BytesIO(b"a.png\n" + lines + b"b.png"))
    count = last = 0
    for count, last in enumerate(found, start=1):  # noqa: B007
        pass
    assert count == 30_002
    assert last.id == "b.png"


def test_a_line_without_end_is_wrong_usage_and_not_kept(here, monkeypatch):
    """`find -print0` without -0, say."""
    monkeypatch.setattr(stdin_lines, "_MAX_LINE_BYTES", 1000)
    with pytest.raises(OmnicapError, match="1,000 bytes") as caught:
        items("-", stdin=b"a.png\0" * 500)
    assert "-0" in caught.value.hint


def test_a_line_that_comes_in_many_pieces_is_put_together(here):
    make("a.png")

    class Dripping(io.BytesIO):
        def read1(self, size=-1):
            return self.read(1)

    found = Sources(inputs=("-",), stdin=Dripping("\ufeff./a.png\n\nb.png".encode()))
    assert [item.id for item in found] == ["a.png", "b.png"]


# --- URLs of other protocols


@pytest.fixture
def memory(here):
    """The file system memory://, emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_files_and_folders_in_memory_are_items_that_any_process_can_decode(memory):
    two_pages, picture = pdf((10, 10), (20, 10)), solid_png((250, 0, 0))
    for name, data in (("p/a.png", picture), ("p/deep/two.pdf", two_pages), ("p/notes.txt", b""), ("p/.hid.png", PNG)):
        memory.pipe(f"/{name}", data)
    memory.pipe("/list.csv", b"image,t\np/a.png,beside\n")
    expected = ["memory://p/a.png", "memory://p/deep/two.pdf#page=1", "memory://p/deep/two.pdf#page=2"]
    assert ids("memory://p") == expected
    assert ids("memory://p/*.png") == ["memory://p/a.png"]
    found = items("memory://list.csv")
    assert [(item.id, dict(item.meta)) for item in found] == [("memory://p/a.png", {"t": "beside"})]
    assert decode(pickle.loads(pickle.dumps(found[0])), Settings()).image.getpixel((0, 0)) == (250, 0, 0)
    assert found[0].visuals[0].content == picture  # it goes along: another process has another memory
    assert kinds("memory://gone.png") == {"memory://gone.png": "NotFoundError"}


def test_a_changed_file_in_memory_is_known_as_changed(memory):
    memory.pipe("/a.png", solid_png((1, 1, 1)))
    before = items("memory://a.png")[0].fingerprint
    assert items("memory://a.png")[0].fingerprint == before
    memory.pipe("/a.png", solid_png((2, 2, 2), (9, 9)))
    assert items("memory://a.png")[0].fingerprint != before


# --- chains of protocols

RED, BLUE = (250, 10, 10), (10, 10, 250)


@pytest.mark.parametrize(
    ("url", "before", "link", "after"),
    [
        ("s3://b/a.png", "", "s3://b/a.png", ""),
        ("zip://a.png::s3://b/x.zip", "", "zip://a.png", "::s3://b/x.zip"),
        ("zip://::y.zip", "", "zip://", "::y.zip"),
        ("zip://a.png::simplecache::s3://b/x.zip", "", "zip://a.png", "::simplecache::s3://b/x.zip"),
        ("simplecache::s3://b/a.png", "simplecache::", "s3://b/a.png", ""),
        ("filecache://::zip://a.tif::s3://b/x.zip", "filecache://::", "zip://a.tif", "::s3://b/x.zip"),
        ("https://h/a::b.png?x=1::2", "", "https://h/a::b.png?x=1::2", ""),
        ("file:///a::b.png", "", "file:///a::b.png", ""),
    ],
)
def test_the_links_of_a_url(url, before, link, after):
    assert split_chain(url) == (before, link, after)


@given(
    st.text(alphabet=":/za1.#?\n") | st.lists(st.sampled_from(["zip://a", "simplecache", "::", "s3://b"])).map("".join)
)
def test_the_links_make_up_the_url(url):
    assert "".join(split_chain(url)) == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("zip://d/a.TIF::s3://b/x.zip", ".tif"),
        ("zip://a.pdf::https://h/x.zip?sig=1.tar#2", ".pdf"),
        ("https://h/a::b.png?x=1.tar", ".png"),
        ("simplecache::https://h/a.jpg?x=1.tar", ".jpg"),
        ("tar://::x.tar", ""),
    ],
)
def test_the_suffix_is_that_of_the_link_that_names_the_file(url, expected):
    assert suffix_of(url) == expected
    assert without_query(url).lower().endswith(expected)


def archives_here():
    """y.zip and y.tar with the same in each, and in.zip with an archive inside."""
    pages = io.BytesIO()
    frames = [Image.new("RGB", (4, 4)) for _ in range(3)]
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    files = {"blue.png": solid_png(BLUE), "d/red.png": solid_png(RED), "d/.hid.png": PNG, "m.tif": pages.getvalue()}
    files |= {"p.pdf": pdf((10, 10), (20, 10)), "d/rows.csv": b"image\nred.png\n", "notes.txt": b""}
    with zipfile.ZipFile("y.zip", "w") as zipped, tarfile.open("y.tar", "w") as tarred:
        for name, content in files.items():
            zipped.writestr(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile("in.zip", "w") as zipped:
        zipped.write("y.tar")


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", ["blue.png", "d/red.png", *("m.tif",) * 3, *("p.pdf",) * 2]),
        ("d", ["d/red.png"]),
        ("d/", ["d/red.png"]),
        ("*.png", ["blue.png"]),
        ("**/*.png", ["blue.png", "d/red.png"]),
        ("blue.png", ["blue.png"]),
        ("m.tif", ["m.tif"] * 3),
        ("p.pdf", ["p.pdf"] * 2),
        ("d/rows.csv", ["d/red.png"]),
    ],
)
@pytest.mark.parametrize("chain", ["zip://{}::y.zip", "tar://{}::y.tar", "zip://{}::simplecache::file://{}/y.zip"])
def test_what_is_in_an_archive_that_a_chain_leads_into(here, chain, inside, expected):
    archives_here()
    form = chain.replace("file://{}", f"file://{here}")
    found = items(form.format(inside))
    assert [item.image for item in found] == [form.format(name) for name in expected]
    num_pages = len(expected) if expected[0] in ("m.tif", "p.pdf") else 0
    assert [item.visuals[0].page for item in found if num_pages] == list(range(1, num_pages + 1))
    assert all(decode(item, Settings()).image.getpixel((0, 0)) == RED for item in found if "red" in item.image)


def test_a_folder_behind_a_url_says_how_to_name_what_it_holds(memory, here):
    memory.pipe("/p/s-0.tar", b"")
    memory.pipe("/p/.h.csv", b"")
    (said,) = warnings_of("memory://p")
    assert said == "no pictures or PDFs in memory://p; it holds .tar files: name them, as 'memory://p/*.tar'"
    with zipfile.ZipFile("y.zip", "w") as archive:
        archive.writestr("rows.csv", "image\n")
    (said,) = warnings_of("zip://::y.zip")
    assert said.endswith("as 'zip://*.csv::y.zip'")


def test_an_archive_in_an_archive(here):
    archives_here()
    assert "zip://y.tar::in.zip#member=d/red.png" in kinds("zip://y.tar::in.zip")
    assert set(kinds("zip://y.tar::in.zip").values()) == {"ok"}


@pytest.mark.parametrize("inside", ["x/red.png", "x", "x/", "x/*.png", "x/rows.csv"])
def test_a_cache_before_a_url_changes_nothing_but_the_name(here, inside):
    make("x/red.png", data=solid_png(RED))
    make("x/rows.csv", data=b"image\nred.png\n")
    (item,) = items(f"simplecache::file://{here}/{inside}")
    assert item.id == f"simplecache::file://{here}/x/red.png"
    assert decode(item, Settings()).image.getpixel((0, 0)) == RED


def test_a_manifest_from_elsewhere_leads_here_through_no_chain(memory, here):
    """Whatever a chain looks like, no link of it is a file of this machine: fsspec takes one without a protocol so."""
    archives_here()
    memory.pipe("/m/y.zip", Path("y.zip").read_bytes())
    Path("Word").write_bytes(Path("y.zip").read_bytes())
    good = [f"zip://blue.png::{cache}memory://m/y.zip" for cache in ("", "simplecache::")]
    bad = [
        f"zip://blue.png::{here}/y.zip",
        *("zip://blue.png::y.zip", "zip://blue.png::Word", "zip://blue.png::file", "zip://blue.png::"),
        f"zip://blue.png::{here}/y.zip::memory://m/y.zip",
        f"zip://blue.png::FILE://{here}/y.zip",
        f"zip://blue.png::simplecache::local://{here}/y.zip",
        *(f"simplecache::file://{here}/x.png", f"simplecache://::{here}/x.png", "git:///repo:main@a.png"),
    ]
    for folder in ("", "zip://rows.jsonl::"):
        rows = "".join(json.dumps({"image": url}) + "\n" for url in [*good, *bad]).encode()
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("rows.jsonl", rows)
        memory.pipe("/m/rows.jsonl", rows)
        memory.pipe("/m/rows.zip", zipped.getvalue())
        manifest = f"{folder}memory://m/rows.{'zip' if folder else 'jsonl'}"
        refused = {f"{manifest}#line={number}": "ManifestError" for number in range(3, 3 + len(bad))}
        assert kinds(manifest) == dict.fromkeys(good, "ok") | refused


def test_a_manifest_in_an_archive_names_files_beside_it_there(memory, here):
    """Also where the archive is elsewhere, and what it names looks like a chain."""
    archives_here()
    with zipfile.ZipFile("y.zip", "a") as archive:
        archive.writestr("d/more.csv", f"image\nred.png\nblue.png::{here}/y.zip\n/blue.png\n")
    memory.pipe("/y.zip", Path("y.zip").read_bytes())
    manifest = "zip://d/more.csv::memory://y.zip"
    assert kinds(manifest) == {
        "zip://d/red.png::memory://y.zip": "ok",
        f"{manifest}#row=2": "ManifestError",
        f"{manifest}#row=3": "ManifestError",
    }
