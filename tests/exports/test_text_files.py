"""One text file per caption: what it is called, that no two share a name, and that nothing of the user's is lost."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.journal_records import HOSTILE_CAPTIONS, make_record, write_journal

from omnicap_cli import __version__
from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.errors import JournalWriteError
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import ExportOutcome, export_journal
from omnicap_cli.exports.paths import fitted_name

Records = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "captions"


def mirror(folder: Path, records: Records, **options: Any) -> ExportOutcome:
    """Export these records to `folder`."""
    journal = write_journal(folder.with_name("run.jsonl"), records)
    return export_journal(ExportConfig(journal=journal, output=folder, format="txt", **options), show=print)


def beside(tmp_path: Path, records: Records, **options: Any) -> ExportOutcome:
    """Export these records to where their pictures are."""
    journal = write_journal(tmp_path / "run.jsonl", records)
    return export_journal(ExportConfig(journal=journal, format="txt", **options), show=print)


def files_in(folder: Path) -> dict[str, str]:
    """Every file below a folder but the note, by its relative name."""
    found = {str(path.relative_to(folder)): path.read_bytes().decode() for path in folder.rglob("*") if path.is_file()}
    found.pop("omnicap.json", None)
    return found


def captioned(*images: str) -> Records:
    """A record for each, whose caption is the name of the image."""
    return [make_record(image, image) for image in images]


def names_of(folder: Path) -> dict[str, str]:
    """The name of each file by its caption, after `captioned`."""
    return {content: name for name, content in files_in(folder).items()}


def is_digested(name: str, start: str) -> bool:
    """Whether a name is `start`, a digest and the suffix."""
    middle = name.removeprefix(f"{start}.").removesuffix(".txt")
    return name == f"{start}.{middle}.txt" and len(middle) == 16 and set(middle) <= set("0123456789abcdef")


# -------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"id": "a.jpg"}, "a.txt"),
        ({"id": "in/deep er/图.jpeg"}, "in/deep er/图.txt"),
        ({"id": "/data/in/a.jpg"}, "data/in/a.txt"),
        ({"id": "no-suffix"}, "no-suffix.txt"),
        ({"id": "a.b.c.png"}, "a.b.c.txt"),
        ({"id": ".hidden/.name.png"}, ".hidden/.name.txt"),
        ({"id": "caf%25/a%2Fb.png"}, "caf%25/a%2Fb.txt"),  # paths are not decoded
        ({"id": "x.tar#member=dir/n.jpg"}, "x.tar/dir/n.txt"),
        ({"id": "x.tar#member=d%20r/%E5%9B%BE.jpg"}, "x.tar/d r/图.txt"),
        ({"id": "x.tar#member=caf%E9.jpg"}, "x.tar/caf%E9.txt"),
        ({"id": "f.pdf#page=3", "image": "f.pdf", "page": 3}, "f.page-3.txt"),
        ({"id": "mine#page=3", "image": "in/f.pdf", "page": 3}, "in/f.page-3.txt"),
        ({"id": "x.tar#member=f.pdf#page=2", "image": "x.tar#member=f.pdf", "page": 2}, "x.tar/f.page-2.txt"),
        ({"id": "f.parquet#row=7"}, "f.row-7.txt"),
        ({"id": "question 17", "image": "in/a.jpg"}, "in/a.txt"),
        ({"id": "alone.jpg", "image": None}, "alone.txt"),
        ({"id": "https://example.org/pics/a.jpg"}, "example.org/pics/a.txt"),
        ({"id": "https://example.org:8080/a.jpg?w=1/2"}, "example.org_8080/a.txt"),
        ({"id": "s3://bucket/key/a.jpg"}, "bucket/key/a.txt"),
    ],
)
def test_the_tree_mirrors_that_of_the_pictures(folder, more, name):
    mirror(folder, [make_record(caption="found", **more)])
    assert files_in(folder) == {name: "found"}


@pytest.mark.parametrize(
    "image",
    [
        *("../../evil.jpg", "/../../evil.jpg", "in/../../../evil.jpg", "..", "../..", "/", ".", "./..//../evil.jpg"),
        *("x.tar#member=../../../evil.jpg", "x.tar#member=/etc/evil.jpg", "x.tar#member=%2e%2e/%2e%2e/evil.jpg"),
        *("https://h/../../../evil.jpg", "file:///../evil.jpg", "https://../../evil.jpg", "s3://.."),
        *("C:\\evil.jpg", "C:/evil.jpg", "..\\..\\evil.jpg", "\\\\server\\share\\evil.jpg", "a\0/../b.jpg", "\0"),
        *("a:b.jpg", "a\nb.jpg", "a\x1b[31m.jpg", 'a?*"<>|.jpg', "x" * 300, "图" * 100 + "/" + "图" * 100 + ".jpg"),
        *("~/evil.jpg", "-rf.jpg", "$(evil).jpg", "x.tar#member=", "https://"),
    ],
)
def test_no_name_leads_out_of_the_folder(folder, image):
    outcome = mirror(folder, [make_record(image, "found")])
    assert outcome.num_written == 1
    ((name, content),) = files_in(folder).items()
    assert content == "found"
    assert not set('\\:*?"<>|\n\x1b\0') & set(name)
    assert all(len(part.encode()) <= 255 for part in name.split("/"))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["captions", "run.jsonl"]


PARTS = st.lists(
    st.sampled_from(["..", ".", "", "a", "A", "b.jpg", "a.png", "C:", "\\", "x" * 260, "é", "e\u0301", "\0", "~"]),
    min_size=1,
    max_size=5,
)


@given(st.lists(PARTS.map("/".join), min_size=1, max_size=8, unique=True))
def test_any_names_at_all(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("any") / "captions"
    outcome = mirror(folder, captioned(*filter(None, images)))
    found = files_in(folder)
    assert sorted(found.values()) == sorted(filter(None, images))
    assert len({name.casefold() for name in found}) == len(found) == outcome.num_written
    assert {path.name for path in folder.parent.iterdir()} == {"captions", "run.jsonl"}


def test_a_long_name_keeps_its_beginning(folder):
    mirror(folder, captioned("x" * 300 + ".jpg", "x" * 300 + ".png", "x" * 299 + ".jpg"))
    names = list(files_in(folder))
    assert len(names) == 3
    assert all(len(name) == 255 and is_digested(name, "x" * (255 - 4 - 17)) for name in names)


def test_fitted_names_end_between_characters():
    name = fitted_name("é" * 200, ".txt")  # two bytes each
    assert is_digested(name, "é" * 117)
    assert len(name.encode()) == 2 * 117 + 17 + 4
    assert fitted_name("é" * 125, ".text") == "é" * 125 + ".text"


# ------------------------------------------------------------------------------------------ names that clash


@pytest.mark.parametrize("order", list(itertools.permutations(["in/a.jpg", "in/a.png", "in/b.jpg"])))
def test_two_pictures_with_one_stem_both_get_their_full_names(folder, order):
    mirror(folder, captioned(*order))
    assert names_of(folder) == {"in/a.jpg": "in/a.jpg.txt", "in/a.png": "in/a.png.txt", "in/b.jpg": "in/b.txt"}


def test_stems_that_differ_in_case_or_unicode_form(folder):
    mirror(folder, captioned("a.jpg", "A.png", "caf\u00e9.jpg", "cafe\u0301.png", "straße.jpg", "STRASSE.png"))
    assert names_of(folder) == {
        **{"a.jpg": "a.jpg.txt", "A.png": "A.png.txt"},
        **{"caf\u00e9.jpg": "caf\u00e9.jpg.txt", "cafe\u0301.png": "cafe\u0301.png.txt"},
        **{"straße.jpg": "straße.jpg.txt", "STRASSE.png": "STRASSE.png.txt"},
    }


def test_full_names_that_clash_too(folder):
    mirror(
        folder,
        captioned(
            "a.jpg", "A.jpg", "b?.jpg", "b*.jpg", "/c.jpg", "c.jpg", "Dir/d.jpg", "dir/d.jpg", "./e.jpg", "e.jpg"
        ),
    )
    names = names_of(folder)
    assert len(names) == 10
    for image, start in (("a.jpg", "a.jpg"), ("A.jpg", "A.jpg"), ("b?.jpg", "b_.jpg"), ("/c.jpg", "c.jpg")):
        assert is_digested(names[image], start)
    assert len({os.path.normpath(name).casefold() for name in names.values()}) == 10


def test_a_full_name_that_is_the_stem_of_another(folder):
    mirror(folder, captioned("a.jpg", "a.png", "a.jpg.png", "b", "b.jpg"))
    assert names_of(folder) == {
        **{"a.jpg": "a.jpg.txt", "a.png": "a.png.txt", "a.jpg.png": "a.jpg.png.txt"},
        **{"b": "b.txt", "b.jpg": "b.jpg.txt"},
    }


def test_a_page_and_a_picture_called_like_it(folder):
    page = make_record("f.pdf#page=3", "the page", image="f.pdf", page=3)
    mirror(folder, [page, make_record("f.page-3.png", "the picture"), make_record("g.pdf#page=3", "g", page=3)])
    assert files_in(folder) == {"f.pdf.page-3.txt": "the page", "f.page-3.png.txt": "the picture", "g.page-3.txt": "g"}


def test_several_pictures_of_one_file(folder):
    pages = [make_record(f"f.pdf#page={page}", str(page), image="f.pdf", page=page) for page in (1, 2, 12)]
    mirror(
        folder, [*pages, *captioned("x.tar#member=a.jpg", "x.tar#member=b.jpg", "d.parquet#row=1", "d.parquet#row=2")]
    )
    assert files_in(folder) == {
        **{"f.page-1.txt": "1", "f.page-2.txt": "2", "f.page-12.txt": "12"},
        **{"x.tar/a.txt": "x.tar#member=a.jpg", "x.tar/b.txt": "x.tar#member=b.jpg"},
        **{"d.row-1.txt": "d.parquet#row=1", "d.row-2.txt": "d.parquet#row=2"},
    }


def test_one_url_with_several_queries(folder):
    mirror(folder, captioned("https://h/a.jpg?v=1/x.y", "https://h/a.jpg?v=2", "https://h/b.jpg?v=1"))
    assert names_of(folder) == {
        "https://h/a.jpg?v=1/x.y": "h/a.jpg_v=1_x.y.txt",
        "https://h/a.jpg?v=2": "h/a.jpg_v=2.txt",
        "https://h/b.jpg?v=1": "h/b.txt",
    }


def test_a_folder_where_a_file_should_be(folder):
    outcome = mirror(folder, captioned("a.png", "a.txt/b.png"))
    assert outcome.num_conflicts == 1
    assert files_in(folder) == {"a.txt": "a.png"}


# ------------------------------------------------------------------------------------- prompts and states


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ([("ocr", "text", "en")], ["a.txt"]),
        ([("ocr", "text", "en"), ("ocr", "markdown", "en")], ["a.text.txt", "a.markdown.txt"]),
        ([("chart", "caption", "en"), ("chart", "caption", "zh")], ["a.caption.en.txt", "a.caption.zh.txt"]),
        ([("chart", "caption", "en"), ("table", "caption", "en")], ["a.chart.caption.txt", "a.table.caption.txt"]),
        ([("ocr", "text", "en"), ("gui", "caption", "zh")], ["a.ocr.text.en.txt", "a.gui.caption.zh.txt"]),
        ([("x/../..", "a.b", "en"), ("x", "c", "en")], ["a.x______.a_b.txt", "a.x.c.txt"]),
    ],
)
def test_several_prompts(folder, asked, names):
    records = [make_record("a.jpg", "/".join(each), type=each[0], style=each[1], lang=each[2]) for each in asked]
    mirror(folder, records)
    assert files_in(folder) == {name: "/".join(each) for name, each in zip(names, asked, strict=True)}


def test_a_style_does_not_clash_with_a_name(folder):
    records = [
        make_record(image, image + style, style=style) for image in ("a.jpg", "a.tag.jpg") for style in ("tag", "x")
    ]
    mirror(folder, records)
    assert files_in(folder) == {
        **{"a.tag.txt": "a.jpgtag", "a.x.txt": "a.jpgx"},
        **{"a.tag.tag.txt": "a.tag.jpgtag", "a.tag.x.txt": "a.tag.jpgx"},
    }


@pytest.mark.parametrize("sort", [False, True])
def test_of_several_states_of_a_picture_the_newest_counts(folder, sort):
    states = [
        make_record("b.jpg", "b"),
        *(make_record("a.jpg", f"state {number}", state=number) for number in range(3)),
    ]
    outcome = mirror(folder, [*states, make_record("0.jpg", "0")], sort=sort)
    assert files_in(folder) == {"a.txt": "state 2", "b.txt": "b", "0.txt": "0"}
    assert outcome.left_out.total() == 2


def test_a_caption_outlasts_a_later_error(folder):
    """As when a disk is gone for a while: the picture is known again once it is back, and so is its caption."""
    outcome = mirror(folder, [make_record("a.jpg", "before", state=1), make_record("a.jpg", None, state=2)])
    assert files_in(folder) == {"a.txt": "before"}
    assert dict(outcome.left_out) == {"errors": 1}


# ------------------------------------------------------------------------------------------------ contents


def test_captions_are_exact(folder):
    mirror(folder, [make_record(f"{number:03}.jpg", each) for number, each in enumerate(HOSTILE_CAPTIONS)])
    found = files_in(folder)
    assert [found[f"{number:03}.txt"] for number in range(len(HOSTILE_CAPTIONS))] == list(HOSTILE_CAPTIONS)


def test_errors_have_no_file_and_empty_captions_an_empty_one(folder):
    outcome = mirror(folder, [make_record("a.jpg", None), make_record("b.jpg", ""), make_record("c.jpg", "c")])
    assert files_in(folder) == {"b.txt": "", "c.txt": "c"}
    assert (outcome.num_written, dict(outcome.left_out), outcome.exit_code) == (2, {"errors": 1}, 0)
    assert outcome.summary(Path("captions")) == "2 text files → captions; 1 left out (errors 1)"


def test_the_note_says_who_made_them(folder):
    mirror(folder, [make_record("a.jpg"), make_record("b.jpg", None), make_record("c.jpg", model="PP-OCRv6")])
    assert json.loads((folder / "omnicap.json").read_text()) == {
        **{"generated": True, "omnicap": __version__, "journal": "run.jsonl"},
        **{"models": ["U4R/OmniCaptioner", "PP-OCRv6"], "num_files": 2, "num_conflicts": 0},
        "num_left_out": {"errors": 1},
    }


def test_an_empty_journal(folder):
    outcome = mirror(folder, [])
    assert (outcome.num_written, outcome.exit_code) == (0, 0)
    assert outcome.warnings
    assert [path.name for path in folder.iterdir()] == ["omnicap.json"]


def test_a_record_that_names_nothing(folder):
    outcome = mirror(folder, [make_record("", "lost"), make_record("#page=3", "lost"), make_record("a.jpg", "a")])
    assert files_in(folder) == {"a.txt": "a"}
    assert dict(outcome.left_out) == {"no path": 2}


# ------------------------------------------------------------------------------------- files that are there


def test_again_nothing_is_written(folder):
    records = captioned("a.jpg", "in/b.jpg")
    mirror(folder, records)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    outcome = mirror(folder, records)
    assert (outcome.num_written, outcome.num_same, outcome.exit_code) == (0, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")} == before


@pytest.mark.parametrize("content", ["my own words", "a.jpG", ""])
def test_what_is_there_is_not_overwritten_unasked(folder, content):
    folder.mkdir()
    (folder / "a.txt").write_text(content)
    outcome = mirror(folder, captioned("a.jpg", "b.jpg"))
    assert files_in(folder) == {"a.txt": content, "b.txt": "b.jpg"}
    assert (outcome.num_conflicts, outcome.num_written, outcome.exit_code) == (1, 1, 3)
    assert any("a.txt" in warning and "--overwrite" in warning for warning in outcome.warnings)
    outcome = mirror(folder, captioned("a.jpg", "b.jpg"), overwrite=True)
    assert files_in(folder) == {"a.txt": "a.jpg", "b.txt": "b.jpg"}
    assert (outcome.num_conflicts, outcome.num_written, outcome.num_same, outcome.exit_code) == (0, 1, 1, 0)


def test_a_warning_names_a_few(folder):
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text("mine")
    (warning,) = mirror(folder, captioned(*(f"{number}.jpg" for number in range(5)))).warnings
    assert warning.startswith("5 files")
    assert all(f"{number}.txt" in warning for number in range(3))
    assert "3.txt" not in warning


def test_a_folder_is_never_replaced(folder):
    (folder / "a.txt").mkdir(parents=True)
    outcome = mirror(folder, captioned("a.jpg"), overwrite=True)
    assert (outcome.num_conflicts, outcome.exit_code) == (1, 3)


def test_a_pipe_is_never_read_nor_replaced(folder):
    folder.mkdir()
    os.mkfifo(folder / "a.txt")
    for overwrite in (False, True):
        assert mirror(folder, [make_record("a.jpg", "")], overwrite=overwrite).num_conflicts == 1
    assert (folder / "a.txt").is_fifo()


def test_a_path_longer_than_the_system_takes(folder):
    outcome = mirror(folder, captioned("in/" * 2_000 + "a.jpg", "b.jpg"))
    assert files_in(folder) == {"b.txt": "b.jpg"}
    assert dict(outcome.left_out) == {"path too long": 1}


def test_no_partial_file_stays(folder):
    mirror(folder, captioned("a.jpg", "in/b.jpg", "in/b.png"))
    assert not list(folder.rglob("*.partial"))
    assert sorted(path.name for path in folder.rglob("*")) == ["a.txt", "b.jpg.txt", "b.png.txt", "in", "omnicap.json"]


def test_a_disk_that_takes_nothing(folder, monkeypatch):
    def full(*_names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(JournalWriteError, match=r"a\.txt: No space left"):
        mirror(folder, captioned("a.jpg"))
    assert not [path for path in folder.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------- beside the pictures


def touch(tmp_path: Path, *names: str) -> None:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_beside_the_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "in/b.png", "in/f.pdf", "t.tar", "other/c.jpg")
    pages = [make_record(f"in/f.pdf#page={number}", f"p{number}", image="in/f.pdf", page=number) for number in (1, 2)]
    elsewhere = captioned("t.tar#member=a.jpg", "https://h/a.jpg", "gone/a.jpg")
    outcome = beside(
        tmp_path, [*captioned("in/a.jpg", "in/b.jpg", "in/b.png", str(tmp_path / "other/c.jpg")), *pages, *elsewhere]
    )
    assert {name: text for name, text in files_in(tmp_path).items() if name.endswith(".txt")} == {
        **{"in/a.txt": "in/a.jpg", "in/b.jpg.txt": "in/b.jpg", "in/b.png.txt": "in/b.png"},
        **{"in/f.page-1.txt": "p1", "in/f.page-2.txt": "p2", "other/c.txt": str(tmp_path / "other/c.jpg")},
    }
    assert dict(outcome.left_out) == {"no file of its own: name a folder with -o": 2, "no picture": 1}
    assert not (tmp_path / "omnicap.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "other", "run.jsonl", "t.tar"]


def test_a_failed_record_is_an_error_whether_its_picture_is_there_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg")
    gone = [make_record(name, None) for name in ("gone.jpg", "t.tar#member=a.jpg")]
    outcome = beside(tmp_path, [*captioned("lost.jpg"), *gone, make_record("a.jpg", None)])
    assert dict(outcome.left_out) == {"errors": 3, "no picture": 1}


def test_two_spellings_of_one_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg")
    beside(tmp_path, [make_record("a.jpg", "older"), make_record(str(tmp_path / "a.jpg"), "newer")])
    assert (tmp_path / "a.txt").read_text() == "newer"


def test_relative_paths_begin_where_the_run_was(tmp_path, monkeypatch):
    touch(tmp_path, "there/in/a.jpg", "here/in/a.jpg", "here/in/b.jpg", "root/in/a.jpg")
    monkeypatch.chdir(tmp_path / "here")
    RunMeta(folder=str(tmp_path / "there")).write(tmp_path / "run.jsonl")
    beside(tmp_path, captioned("in/a.jpg", "in/b.jpg"))
    texts = {name for name in files_in(tmp_path) if name.endswith(".txt")}
    assert texts == {"there/in/a.txt", "here/in/b.txt"}
    beside(tmp_path, captioned("in/a.jpg"), image_root=str(tmp_path / "root"))
    assert (tmp_path / "root/in/a.txt").exists()


def test_names_that_are_not_utf_8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    Path(os.fsdecode(raw)).touch()
    touch(tmp_path, "100%25.jpg")
    beside(tmp_path, [make_record("caf%E9.jpg", "found"), make_record("100%25.jpg", "found too")])
    assert Path(os.fsdecode(raw[:-4] + b".txt")).read_text() == "found"
    assert (tmp_path / "100%25.txt").read_text() == "found too"


def test_the_pictures_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"a picture with an odd name")
    before = hashlib.sha256((tmp_path / "a.txt").read_bytes()).hexdigest()
    outcome = beside(tmp_path, captioned("a.txt"))
    assert outcome.num_conflicts == 1
    assert hashlib.sha256((tmp_path / "a.txt").read_bytes()).hexdigest() == before
