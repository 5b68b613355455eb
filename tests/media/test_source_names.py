"""Names of items: whatever bytes they have, none twice, and fingerprints that tell when a file changed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.media_samples import pdf
from support.source_items import PNG, ids_of, items_of, kinds_of, make_files
from support.source_items import here as here  # a fixture

from omnicap_cli.core.files.words import printable
from omnicap_cli.core.runs.records import Item, MediaRef
from omnicap_cli.media.names import path_of_shown, shown_path
from omnicap_cli.media.sources import unique_items

# --- names

ODD = b"caf\xe9.png"  # Latin-1
ODD_PERCENT = b"100%\xe9.png"


def test_names_that_are_not_utf8_are_percent_encoded_and_lead_back(here):
    make_files(ODD, ODD_PERCENT, b"d\xff/\xfe.png", "plain 100%.png", "naïve.png")
    found = items_of(".")
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
    make_files(ODD)
    assert kinds_of("-", stdin=ODD + b"\n") == {"caf%E9.png": "ok"}
    assert kinds_of(os.fsdecode(ODD)) == {"caf%E9.png": "ok"}


def test_a_pdf_whose_name_is_not_utf8(here):
    make_files(b"caf\xe9.pdf", data=pdf((10, 10), (10, 10)))
    assert kinds_of(".") == {"caf%E9.pdf#page=1": "ok", "caf%E9.pdf#page=2": "ok"}


def test_names_with_line_breaks_and_control_characters_are_kept(here):
    make_files("a\nb.png", "tab\t.png", "esc\x1b[31m.png")
    assert sorted(ids_of(".")) == ["a\nb.png", "esc\x1b[31m.png", "tab\t.png"]
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
    make_files("p/a.png", "p/b.png")
    assert ids_of("p/b.png", "p", "p/a.png", "p/*.png") == ["p/b.png", "p/a.png"]


@pytest.mark.parametrize("again", ["./p/a.png", "p//a.png", "./p", "p/"])
def test_an_item_given_again_in_another_spelling_is_no_other_item(here, again):
    make_files("p/a.png")
    assert kinds_of("p/a.png", again) == {"p/a.png": "ok"}


def test_two_pictures_with_one_id_are_an_error_of_the_second(here):
    make_files("a.png", "b.png")
    found = items_of("-", stdin=b'{"image": "a.png", "id": "x"}\n{"image": "b.png", "id": "x"}\n')
    assert [(item.id, item.visuals[0].path, item.error and item.error.kind) for item in found] == [
        ("x", "a.png", None),
        ("x", "b.png", "DuplicateIdError"),
    ]


def test_rows_of_one_picture_with_other_columns_are_not_dropped_in_silence(here):
    make_files("a.png")
    rows = [
        b'{"image": "a.png", "question": "Who?", "n": 1}',
        b'{"n": 1, "image": "./a.png", "question": "Who?"}',  # the same, said differently
        b'{"image": "a.png", "question": "Where?", "n": 1}',
        b'{"image": "a.png", "question": "Where?", "n": 1}',
        b'{"image": "a.png"}',
    ]
    found = items_of("-", stdin=b"\n".join(rows))
    assert [(item.id, item.meta.get("question"), item.error and item.error.kind) for item in found] == [
        ("a.png", "Who?", None),
        ("a.png", "Where?", "DuplicateIdError"),
        ("a.png", None, "DuplicateIdError"),
    ]


def test_a_name_that_reads_like_a_percent_encoded_one(here):
    make_files(b"caf\xe9.png", "caf%E9.png")
    found = items_of(".")
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
    (item,) = items_of(name, fingerprint=kind)
    return item.fingerprint


@pytest.mark.parametrize("name", ["a.png", "a.pdf"])
def test_the_stat_fingerprint_is_of_size_and_time(here, name):
    make_files(name, data=PNG if name == "a.png" else pdf((10, 10)))
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
    make_files(name, data=data)
    os.utime(name, ns=(1, 1))
    before, stat_before = fingerprint("content", name), fingerprint("stat", name)
    os.utime(name, ns=(2, 2))
    assert fingerprint("content", name) == before
    make_files(name, data=data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(name, ns=(1, 1))
    assert fingerprint("stat", name) == stat_before
    assert fingerprint("content", name) != before


def test_the_content_fingerprint_is_the_same_under_another_name(here):
    make_files("a.png", "b.png")
    assert fingerprint("content", "a.png") == fingerprint("content", "b.png")


def test_a_big_file_is_hashed_whole(here):
    make_files("a.png", data=PNG + b"\0" * (3 << 20))
    before = fingerprint("content")
    make_files("a.png", data=PNG + b"\0" * ((3 << 20) - 1) + b"\1")
    assert fingerprint("content") != before
