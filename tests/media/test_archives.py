"""Tar archives become items without being unpacked; whatever is in one, nothing leaves it. Archives from tarfile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.media_samples import pdf, solid_png

from omnicap_cli.core.runs.records import Settings, Transfer
from omnicap_cli.errors import ItemError
from omnicap_cli.media.decode import decode
from omnicap_cli.media.sources import Sources

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)
MODES = ["w", "w:gz", "w:bz2", "w:xz"]
SUFFIXES = {"w": ".tar", "w:gz": ".tar.gz", "w:bz2": ".tar.bz2", "w:xz": ".tar.xz"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def info(name, **fields):
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def tar(members, path="x.tar", mode="w"):
    """An archive of (name or TarInfo, content) pairs."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = info(name) if isinstance(name, str) else name
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def items(*inputs, **options):
    return list(Sources(inputs=inputs, **options))


def outcomes(*inputs, **options):
    """id -> the colour of its first pixel, or the kind of its error."""
    return {item.id: outcome(item) for item in items(*inputs, **options)}


def outcome(item):
    try:
        return decode(item, Settings()).image.getpixel((0, 0))
    except ItemError as error:
        return error.kind


@pytest.mark.parametrize("mode", MODES)
def test_every_picture_in_an_archive_is_an_item(mode):
    path = tar(
        [("a.png", solid_png(RED)), ("d/b.PNG", solid_png(GREEN)), ("notes.md", b"x")], "x" + SUFFIXES[mode], mode
    )
    assert outcomes(path) == {f"{path}#member=a.png": RED, f"{path}#member=d/b.PNG": GREEN}


READING = """
import os, sys
from omnicap_cli.core.runs.records import Settings
from omnicap_cli.media.decode import decode
from omnicap_cli.media.sources import Sources
def refuse(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or event == "os.mkdir":
        raise AssertionError((event, *arguments))
sys.addaudithook(refuse)
for item in Sources(inputs=tuple(sys.argv[1:])):
    print(item.id, decode(item, Settings()).image.size)
"""


def test_nothing_is_unpacked_to_the_disk(here):
    """Not even for a moment: the process dies if it opens any file for writing."""
    members = [("a.png", solid_png(size=(5, 3))), ("a.json", b"{}"), ("d/b.png", solid_png())]
    paths = [tar(members, "x" + SUFFIXES[mode], mode) for mode in MODES]
    words = [sys.executable, "-B", "-c", READING, *paths]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = [line for path in paths for line in (f"{path}#member=a.png (5, 3)", f"{path}#member=d/b.png (4, 3)")]
    assert done.stdout.splitlines() == expected
    assert sorted(os.listdir(here)) == sorted(paths)


def test_names_are_percent_encoded():
    tar([("a b#1%.png", solid_png(RED)), ("ü/é.png", solid_png(BLUE))])
    # RFC 3986: everything but unreserved characters and the slash; UTF-8 bytes of the letters
    assert outcomes("x.tar") == {
        "x.tar#member=a%20b%231%25.png": RED,
        "x.tar#member=%C3%BC/%C3%A9.png": BLUE,
    }


def test_image_and_id_name_the_member():
    tar([("a.png", solid_png())])
    (item,) = items("./x.tar")
    assert (item.id, item.image) == ("x.tar#member=a.png", "x.tar#member=a.png")


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_beside_a_picture_becomes_its_columns(mode):
    members = [
        ("s/000.jpg", solid_png(RED)),
        ("s/000.json", json.dumps({"title": "red", "n": 1, "id": "other"}).encode()),
        ("s/000.txt", b"a red one\n"),
        ("s/001.txt", b"a green one"),
        ("s/001.left.png", solid_png(GREEN)),
        ("s/001.right.png", solid_png(BLUE)),
        ("t/001.json", b'{"title": "of another folder"}'),
        ("s/002.png", solid_png(BLUE)),
        ("s/002.json", b"[1, 2]"),
        ("s/003.png", solid_png(BLUE)),
    ]
    path = tar(members, "x" + SUFFIXES[mode], mode)
    found = {item.id.split("=")[1]: dict(item.meta) for item in items(path)}
    assert found == {
        "s/000.jpg": {"title": "red", "n": 1, "id": "other", "txt": "a red one\n"},
        "s/001.left.png": {"txt": "a green one"},
        "s/001.right.png": {"txt": "a green one"},
        "s/002.png": {"json": [1, 2]},
        "s/003.png": {},
    }


def test_columns_that_cant_be_read_are_an_error_of_their_pictures():
    tar(
        [
            ("a.png", solid_png()),
            ("a.json", b"{nonsense"),
            ("b.png", solid_png(RED)),
            ("c.json", b"["),
            ("c.txt", b"\xff"),
        ]
    )
    assert outcomes("x.tar") == {"x.tar#member=a.png": "ManifestError", "x.tar#member=b.png": RED}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "a/../../b.png", "C:\\x.png", "a\\..\\x.png"])
def test_a_name_that_would_lead_out_is_only_a_name(here, mode, name):
    path = tar([(name, solid_png(RED))], "x" + SUFFIXES[mode], mode)
    assert list(outcomes(path).values()) == [RED]
    assert os.listdir(here) == [path]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_in_an_archive_are_not_followed(mode):
    Path("secret.png").write_bytes(solid_png(RED))
    members = [
        (info("soft.png", type=tarfile.SYMTYPE, linkname="secret.png"), b""),
        (info("hard.png", type=tarfile.LNKTYPE, linkname="secret.png"), b""),
        (info("root.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (info("device.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
        (info("pipe.png", type=tarfile.FIFOTYPE), b""),
        (info("folder.png", type=tarfile.DIRTYPE), b""),
        (info("soft.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        ("real.png", solid_png(GREEN)),
    ]
    path = tar(members, "x" + SUFFIXES[mode], mode)
    refused = ["soft", "hard", "root", "device", "pipe"]
    expected = {f"{path}#member={name}.png": "UnsupportedError" for name in refused}
    assert outcomes(path) == expected | {f"{path}#member=real.png": GREEN}


def test_hidden_members_are_left_out():
    names = ["._a.png", ".git/b.png", "d/.b.png", "d/.e/f/b.png", "./.git/b.png", "../.git/b.png", ".../b.png"]
    tar([*((name, solid_png()) for name in names), ("a.png", solid_png(RED)), ("a/.json", b"["), (".d/a.json", b"[")])
    assert outcomes("x.tar") == {"x.tar#member=a.png": RED}


def test_steps_in_a_name_hide_nothing():
    names = ["./a.png", "../b.png", "d/./c.png", "d/../e.png", "f./g.png"]
    tar([(name, solid_png(RED)) for name in names])
    assert outcomes("x.tar") == {f"x.tar#member={name}": RED for name in names}


@pytest.mark.parametrize("mode", MODES)
def test_columns_apart_from_their_picture_are_told_of_once(mode):
    apart = [("a.png", solid_png()), ("b.png", solid_png()), ("s/a\n.txt", b"x"), ("s/a\n.json", b"{}")]
    apart += [("b.json", b"{}"), ("c.json", b"[")]
    path = tar(apart, "x" + SUFFIXES[mode], mode)
    said = []
    assert len(items(path, path, warn=said.append)) == 2
    expected = f"{path}: s/a\\n.txt stands beside no picture: "
    assert said == [expected + "what belongs to a picture must be packed next to it, as tar --sort=name does"] * 2


def test_columns_in_their_places_are_nothing_to_tell_of():
    tar([("a.txt", b"x"), ("a.png", b""), ("b.png", solid_png()), ("b.json", b"["), (".c.json", b"{}"), ("d.md", b"")])
    said = []
    assert len(items("x.tar", warn=said.append)) == 2
    assert said == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_broken_and_empty_members_are_one_error_each(mode):
    path = tar([("a.png", b""), ("b.png", b"nonsense"), ("c.png", solid_png(RED))], "x" + SUFFIXES[mode], mode)
    assert list(outcomes(path).values()) == ["EmptyFileError", "UnsupportedError", RED]


def cut(path, num_bytes):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:num_bytes])


BLOCK = 512
BIG = solid_png(RED) + bytes(3 * BLOCK)  # what follows the end of a PNG is no part of it


@pytest.mark.parametrize(
    ("kept_bytes", "expected"),
    [
        (10 * BLOCK, [RED, GREEN]),  # two members of 1 + 4 and 1 + 1 blocks, and two of zeros: whole, if unpadded
        (8 * BLOCK, [RED, GREEN, "x"]),  # only one block of zeros
        (7 * BLOCK, [RED, GREEN, "x"]),  # no end mark
        (6 * BLOCK + 20, [RED, "m", "x"]),  # in the second picture
        (5 * BLOCK + 100, [RED, "x"]),  # in the second header
        (2 * BLOCK, ["m", "x"]),  # in the first picture
        (BLOCK, ["m", "x"]),
        (100, ["x"]),
    ],
)
def test_a_truncated_archive_gives_what_was_there_and_an_error(kept_bytes, expected):
    tar([("a.png", BIG), ("b.png", solid_png(GREEN))])
    cut("x.tar", kept_bytes)
    names = {"x": ("x.tar", "DecodeError"), "m": (None, "DecodeError")}
    found = list(outcomes("x.tar").items())
    members = iter(["x.tar#member=a.png", "x.tar#member=b.png"])
    if kept_bytes == 8 * BLOCK:  # one block of zeros is an end, if an untidy one: GNU tar takes it too
        expected = expected[:2]
    assert found == [
        names["x"] if each == "x" else (next(members), names["m"][1] if each == "m" else each) for each in expected
    ]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_truncated_gz_gives_what_was_there_and_an_error(share):
    pictures = [(f"{number:03}.png", solid_png(RED) + os.urandom(5000)) for number in range(40)]
    tar(pictures, "x.tar.gz", "w:gz")
    cut("x.tar.gz", int(os.path.getsize("x.tar.gz") * share))
    found = outcomes("x.tar.gz")
    assert found.pop("x.tar.gz") == "DecodeError"
    whole = [name for name, what in found.items() if what == RED]
    assert whole == [f"x.tar.gz#member={number:03}.png" for number in range(len(whole))]
    assert abs(len(whole) - 40 * share) <= 2
    assert set(found.values()) <= {RED, "DecodeError"}
    assert len(found) - len(whole) <= 1


def test_an_archive_with_damage_in_the_middle_says_so():
    tar([("a.png", BIG), ("b.png", solid_png(GREEN)), ("c.png", solid_png(BLUE))])
    content = bytearray(Path("x.tar").read_bytes())
    content[5 * BLOCK : 6 * BLOCK] = b"\xa5" * BLOCK  # the second header
    Path("x.tar").write_bytes(content)
    assert outcomes("x.tar") == {"x.tar#member=a.png": RED, "x.tar": "DecodeError"}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("content", [b"nonsense" * 300, solid_png(), gzip.compress(b"no tar" * 500, mtime=0)])
def test_what_is_no_archive_is_one_error(name, content):
    Path(name).write_bytes(content)
    assert outcomes(name) == {name: "DecodeError"}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz"])
def test_an_empty_or_missing_archive_is_one_error(name):
    assert outcomes(name) == {name: "NotFoundError"}
    Path(name).touch()
    assert outcomes(name) == {name: "EmptyFileError"}


def test_an_archive_of_nothing_gives_nothing():
    assert outcomes(tar([])) == {}


def test_a_compressed_archive_called_tar_is_read_all_the_same():
    tar([("a.png", solid_png(RED))], "x.tar", "w:gz")
    assert outcomes("x.tar") == {"x.tar#member=a.png": RED}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_member_larger_than_the_limit_is_refused(mode):
    path = tar([("a.png", solid_png() + bytes(5000)), ("b.png", solid_png(RED))], "x" + SUFFIXES[mode], mode)
    assert list(outcomes(path, transfer=Transfer(max_bytes=4000)).values()) == ["TooLargeError", RED]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_two_members_of_one_name_are_a_duplicate(mode):
    path = tar([("a.png", solid_png(RED)), ("a.png", solid_png(GREEN))], "x" + SUFFIXES[mode], mode)
    assert [item.error.kind if item.error else "ok" for item in items(path)] == ["ok", "DuplicateIdError"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_pages_of_a_document_in_an_archive_are_items(mode):
    path = tar([("d/two.pdf", pdf((100, 50), (60, 70)))], "x" + SUFFIXES[mode], mode)
    found = items(path)
    assert [item.id for item in found] == [f"{path}#member=d/two.pdf#page={page}" for page in (1, 2)]
    assert [decode(item, Settings(dpi=72)).image.size for item in found] == [(100, 50), (60, 70)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_the_fingerprint_of_a_member_tells_states_apart(mode):
    path = tar([("a.png", solid_png(RED))], "x" + SUFFIXES[mode], mode)
    before = [items(path, fingerprint=kind)[0].fingerprint for kind in ("stat", "content")]
    assert before == [items(path, fingerprint=kind)[0].fingerprint for kind in ("stat", "content")]
    tar([("a.png", solid_png(GREEN))], path, mode)
    os.utime(path, (1, 1))
    after = [items(path, fingerprint=kind)[0].fingerprint for kind in ("stat", "content")]
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert after[1] == "sha256:" + hashlib.sha256(solid_png(GREEN)).hexdigest()


def test_an_archive_of_many_members_takes_little_memory():
    import tracemalloc

    def peak(num_members):
        tar([(f"{number}.png", b"x") for number in range(num_members)])
        tracemalloc.start()
        assert sum(1 for _ in Sources(inputs=("x.tar",))._items(Sources(inputs=("x.tar",))._units())) == num_members
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(4000) < peak(400) + 300_000  # tarfile's own list would need 500 bytes for each
