"""Folders, globs and PDFs become a stream of items: every picture and page once, in a stable order."""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
from pathlib import Path

import pytest
from support.media_samples import encrypted_pdf, pdf, permissions_bind, run_bound_by_permissions
from support.source_items import PNG, call_within, ids_of, items_of, kinds_of, make_files, warnings_of
from support.source_items import here as here  # a fixture

from omnicap_cli.core.runs.records import MediaRef, Settings
from omnicap_cli.errors import AccessError
from omnicap_cli.media import local_files, sources
from omnicap_cli.media.decode import decode
from omnicap_cli.media.sources import Sources

# --- folders


def test_a_folder_is_walked_in_the_order_of_names(here):
    make_files("p/b.png", "p/a.jpg", "p/a/z.gif", "p/a/b/c.webp", "p/c/1.tif", "p/B.bmp")
    assert ids_of("p") == ["p/B.bmp", "p/a/b/c.webp", "p/a/z.gif", "p/a.jpg", "p/b.png", "p/c/1.tif"]


def test_the_order_is_the_same_each_time_and_inputs_keep_theirs(here):
    make_files("p/b.png", "p/a.png", "q/c.png")
    assert ids_of("q", "p") == ["q/c.png", "p/a.png", "p/b.png"]
    assert ids_of("p/b.png", "p/a.png") == ["p/b.png", "p/a.png"]


def test_only_pictures_and_pdfs_of_a_folder_are_taken(here):
    make_files(
        "p/a.png", "p/b.PNG", "p/c.JpEg", "p/notes.txt", "p/a.png.txt", "p/png", "p/d.heic", "p/e.eps", "p/f.svg"
    )
    make_files("p/g.pdf", data=pdf((100, 100)))
    assert ids_of("p") == ["p/a.png", "p/b.PNG", "p/c.JpEg", "p/d.heic", "p/g.pdf#page=1"]


def test_hidden_files_are_taken_only_where_they_are_named(here):
    make_files("p/.a.png", "p/.git/b.png", "p/c.png", "._d.png")
    assert ids_of("p") == ["p/c.png"]
    assert ids_of("p/.a.png", "p/.git") == ["p/.a.png", "p/.git/b.png"]


def test_a_named_file_is_taken_whatever_its_suffix(here):
    make_files("scan", "scan.dat")
    assert kinds_of("scan", "scan.dat") == {"scan": "ok", "scan.dat": "ok"}


@pytest.mark.parametrize("given", ["p", "p/", "./p", "p//", ".//p/", "p/."])
def test_a_folder_gives_the_same_ids_however_it_is_spelled(here, given):
    make_files("p/a.png")
    assert ids_of(given) == ["p/a.png"]


def test_the_current_folder(here):
    make_files("a.png", "b/c.png")
    assert ids_of(".") == ["a.png", "b/c.png"]


def test_an_absolute_folder_keeps_its_path(here):
    make_files("a.png")
    assert ids_of(str(here)) == [f"{here}/a.png"]


def test_an_empty_folder_gives_nothing_and_a_warning(here):
    (here / "p").mkdir()
    make_files("q/notes.txt")
    said = []
    assert ids_of("p", "q", warn=said.append) == []
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
    make_files(*names)
    (said,) = warnings_of("s")
    assert said == "no pictures or PDFs in s" + (f"; it holds {hint}" if hint else "")
    assert warnings_of("s/") == [said.replace("in s", "in s/")]


def test_the_pattern_that_a_folder_is_named_by_finds_what_is_in_it(here):
    make_files("odd[1]/rows.jsonl", data=b'{"image": "a.png"}\n')
    make_files("odd[1]/a.png.txt")
    (said,) = warnings_of("odd[1]")
    (pattern,) = re.findall("as '(.*)'$", said)
    assert kinds_of(pattern) == {"odd[1]/a.png": "NotFoundError"}
    assert warnings_of(str(here / "odd[1]"))[0].endswith(f"as '{here}/odd[[]1]/*.jsonl'")
    os.chdir("odd[1]")
    assert warnings_of(".")[0].endswith("name them, as '*.jsonl'")


def test_linked_files_and_folders_are_followed(here):
    make_files("p/a.png", "far/b.png")
    (here / "p/far").symlink_to("../far")
    (here / "p/link.png").symlink_to("a.png")
    assert kinds_of("p") == {"p/a.png": "ok", "p/far/b.png": "ok", "p/link.png": "ok"}


def test_dangling_and_looping_links_are_one_error_each(here):
    make_files("p/good.png", "p/sub/good.png")
    (here / "p/dangling.png").symlink_to("nowhere.png")
    (here / "p/loop.png").symlink_to("loop.png")
    (here / "p/one.png").symlink_to("two.png")
    (here / "p/two.png").symlink_to("one.png")
    (here / "p/sub/up").symlink_to("..")
    assert kinds_of("p") == {
        "p/dangling.png": "NotFoundError",
        "p/good.png": "ok",
        "p/loop.png": "LinkLoopError",
        "p/one.png": "LinkLoopError",
        "p/sub/good.png": "ok",
        "p/sub/up": "LinkLoopError",
        "p/two.png": "LinkLoopError",
    }


def test_a_folder_that_links_to_itself(here):
    make_files("p/good.png")
    (here / "p/me").symlink_to(".")
    assert kinds_of("p") == {"p/good.png": "ok", "p/me": "LinkLoopError"}


def test_two_folders_that_link_to_each_other_end(here):
    make_files("p/a/1.png", "p/b/2.png")
    (here / "p/a/b").symlink_to("../b")
    (here / "p/b/a").symlink_to("../a")
    found = kinds_of("p")
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
    make_files("file")
    assert kinds_of("missing.png", "missing/", "dangling", "loop", "file/a.png") == {
        "missing.png": "NotFoundError",
        "missing/": "NotFoundError",
        "dangling": "NotFoundError",
        "loop": "LinkLoopError",
        "file/a.png": "AccessError",
    }


def test_a_link_whose_target_is_gone_is_told_from_a_missing_file(here):
    (here / "dangling.png").symlink_to("nowhere.png")
    dangling, missing = (item.error.message for item in items_of("dangling.png", "missing.png"))
    assert "link" in dangling
    assert "link" not in missing
    assert "no such file" in missing


def test_a_url_of_an_unknown_kind_is_an_error_and_keeps_its_spelling(here):
    make_files("a.png")
    url = "nonsense://example.org/a//b/./c.png?x=*"
    url_item, file_item = items_of(url, "a.png")
    assert (url_item.id, url_item.image, url_item.error.kind) == (url, url, "UnsupportedError")
    assert file_item.error is None


def test_a_name_longer_than_the_system_takes_is_an_error_of_its_own(here):
    make_files("a.png")
    assert list(kinds_of("x" * 300 + ".png", "a.png").values()) == ["AccessError", "ok"]


def test_an_empty_file_is_an_error(here):
    make_files("p/a.png")
    make_files("p/b.png", "p/c.pdf", data=b"")
    assert kinds_of("p") == {"p/a.png": "ok", "p/b.png": "EmptyFileError", "p/c.pdf": "EmptyFileError"}


@pytest.mark.parametrize("fingerprint", ["stat", "content"])
def test_a_fifo_is_not_opened(here, fingerprint):
    make_files("p/a.png")
    os.mkfifo("p/pipe.png")
    os.mkfifo("p/pipe.pdf")
    found = call_within(30, lambda: kinds_of("p", "p/pipe.png", fingerprint=fingerprint))
    assert found == {"p/a.png": "ok", "p/pipe.pdf": "AccessError", "p/pipe.png": "AccessError"}


def test_a_fifo_that_takes_the_place_of_a_picture_keeps_nobody_waiting(here):
    os.mkfifo("pipe.png")

    def said():
        with pytest.raises(AccessError) as caught:
            local_files.open_file("pipe.png")
        return caught.value.message

    assert call_within(30, said) == "not a regular file"


def test_who_writes_into_a_fifo_goes_on_waiting_for_its_reader(here):
    os.mkfifo("pipe.png")
    writer = threading.Thread(target=lambda: Path("pipe.png").write_bytes(PNG), daemon=True)
    writer.start()
    assert call_within(30, lambda: kinds_of("pipe.png")) == {"pipe.png": "AccessError"}
    with pytest.raises(AccessError):
        local_files.open_file("pipe.png")
    assert call_within(30, Path("pipe.png").read_bytes) == PNG
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
    make_files("a.png")
    os.mkfifo(name)
    threading.Thread(target=lambda: Path(name).write_bytes(content), daemon=True).start()
    assert call_within(30, lambda: kinds_of(name)) == {"a.png": "ok"}


def test_parquet_which_is_read_from_its_end_comes_through_no_fifo(here):
    os.mkfifo("m.parquet")
    assert call_within(30, lambda: kinds_of("m.parquet")) == {"m.parquet": "AccessError"}


def test_a_device_is_not_read(here):
    assert call_within(30, lambda: kinds_of("/dev/zero", fingerprint="content")) == {"/dev/zero": "AccessError"}


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
    make_files("p/a.png", "p/locked.png", "p/shut/b.png", "p/listed/c.png")
    make_files("p/locked.pdf", data=pdf((10, 10)))
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
    make_files("b.png", "a.png", "c.jpg", "sub/d.png", ".e.png")
    assert ids_of("*.png") == ["a.png", "b.png"]
    assert ids_of("?.*") == ["a.png", "b.png", "c.jpg"]
    assert ids_of("[bc].*") == ["b.png", "c.jpg"]


def test_a_recursive_glob(here):
    make_files("b.png", "s/a.png", "s/t/c.png", "s/t/d.jpg")
    assert ids_of("**/*.png") == ["b.png", "s/a.png", "s/t/c.png"]


def test_a_glob_that_matches_a_folder_takes_what_is_in_it(here):
    make_files("p1/a.png", "p2/b.png", "q/c.png")
    assert ids_of("p*") == ["p1/a.png", "p2/b.png"]


def test_a_glob_that_matches_nothing_warns(here):
    said = []
    assert ids_of("*.png", "**/x\n*.jpg", warn=said.append) == []
    assert len(said) == 2
    assert "*.png" in said[0]
    assert "\n" not in said[1]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(here):
    make_files("a[1].png", "a1.png", "*.png", "what?.png")
    assert ids_of("a[1].png") == ["a[1].png"]
    assert ids_of("*.png") == ["*.png"]
    assert ids_of("what?.png") == ["what?.png"]


def test_a_glob_meets_broken_links(here):
    make_files("a.png")
    (here / "b.png").symlink_to("nowhere")
    assert kinds_of("*.png") == {"a.png": "ok", "b.png": "NotFoundError"}


# --- PDFs


def test_a_pdf_is_an_item_for_each_page(here):
    make_files("p/doc.pdf", "p/Other.PDF", data=pdf((100, 100), (200, 100), (100, 200)))
    found = items_of("p/doc.pdf")
    assert [item.id for item in found] == ["p/doc.pdf#page=1", "p/doc.pdf#page=2", "p/doc.pdf#page=3"]
    assert [item.visuals[0] for item in found] == [
        MediaRef(path="p/doc.pdf", page=page, kind="pdf") for page in (1, 2, 3)
    ]
    assert {item.image for item in found} == {"p/doc.pdf"}
    assert len({item.fingerprint for item in found}) == 1
    assert ids_of("p/Other.PDF")[2] == "p/Other.PDF#page=3"


def test_a_pdf_that_cant_be_opened_is_one_error(here):
    make_files("damaged.pdf", data=b"%PDF-1.4\nnothing else")
    make_files("letter.pdf", data=b"Dear reader")
    make_files("locked.pdf", data=encrypted_pdf(user_password=b"secret", owner_password=b"owner"))
    assert kinds_of(".") == {
        "damaged.pdf": "DecodeError",
        "letter.pdf": "UnsupportedError",
        "locked.pdf": "EncryptedError",
    }


def test_a_pdf_that_claims_a_million_pages_is_few_items(here):
    make_files("a.png")
    make_files("a.pdf", data=pdf((10, 10), count=1_000_000))
    found = ids_of("a.pdf", "a.png")
    assert (found[0], found[-1]) == ("a.pdf#page=1", "a.png")
    assert len(found) <= 5


def test_a_pdf_of_a_thousand_pages_comes_page_by_page(here, monkeypatch):
    make_files("long.pdf", data=pdf((20, 10), *[(10, 10)] * 998, (10, 30)))
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
