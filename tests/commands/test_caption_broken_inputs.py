"""One folder of everything that can be wrong with an input: each is one error record that a person understands."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont
from support.permissions import drop_override

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENCRYPTED_PDF = Path(__file__).parents[1] / "media" / "data" / "encrypted.pdf"

# name of the file -> kind of error, and words that the message has to hold
BROKEN = {
    "empty.png": ("EmptyFileError", ["empty"]),
    "empty.pdf": ("EmptyFileError", ["empty"]),
    "truncated.jpg": ("DecodeError", ["damaged"]),
    "text.png": ("UnsupportedError", ["not an image", "text"]),
    "zeros.png": ("DecodeError", ["zero bytes"]),
    "bomb.png": ("TooLargeError", ["178,956,970", "--max-decode-pixels"]),
    "bomb-small.png": ("TooLargeError", ["14000x14000", "178,956,970", "--max-decode-pixels"]),
    "encrypted.pdf": ("EncryptedError", ["password"]),
    "text.pdf": ("UnsupportedError", ["not a PDF"]),
    "damaged.pdf": ("DecodeError", ["damaged"]),
    "dangling.png": ("NotFoundError", ["link", "gone"]),
    "loop.png": ("LinkLoopError", ["link"]),
    "loop-a.png": ("LinkLoopError", ["link"]),
    "loop-b.png": ("LinkLoopError", ["link"]),
    "sub/up": ("LinkLoopError", ["link", "folder"]),
    "pipe.png": ("AccessError", ["regular file"]),
}
LOCKED = {
    "locked.png": ("AccessError", ["permission"]),
    "locked.pdf": ("AccessError", ["permission"]),
    "shut": ("AccessError", ["permission"]),
}
# id -> words of the caption; without any it is empty
GOOD = {
    "poster.png": ["RIVERSIDE", "LANTERNS"],
    "dot.png": [],
    "1x30000.png": [],
    "caf%E9 50%25.png": ["HELLO", "42"],
    "two\nlines.png": ["HELLO", "42"],
    "sub/hello.png": ["HELLO", "42"],
    "page.pdf#page=1": [],
}


def png_header(width, height):
    """A grey PNG that claims a size and has no pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def png_bytes(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def hello():
    """A small picture that says HELLO 42."""
    image = Image.new("RGB", (260, 80), "white")
    ImageDraw.Draw(image).text((20, 15), "HELLO 42", fill="black", font=ImageFont.load_default(size=44))
    return png_bytes(image)


def page_pdf():
    """A PDF of one empty page."""
    objects = (
        "1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj",
        "2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj",
        "3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 200 100]>> endobj",
        "trailer <</Root 1 0 R /Size 4>>",
    )
    return "\n".join(("%PDF-1.4", *objects, "%%EOF\n")).encode()


def permissions_bind(folder):
    locked = folder / "probe"
    locked.touch(mode=0)
    done = subprocess.run(["cat", str(locked)], preexec_fn=drop_override, capture_output=True)
    locked.unlink()
    return done.returncode != 0


def caption(folder, *arguments, stdin=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    return subprocess.run(
        [sys.executable, "-m", "omnicap_cli", "caption", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        preexec_fn=drop_override,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )


def fill(folder):
    receipt = (EXAMPLES / "receipt.jpg").read_bytes()
    contents = {
        "empty.png": b"",
        "empty.pdf": b"",
        "truncated.jpg": receipt[: len(receipt) // 3],
        "text.png": b"Dear reader,\nthis is a letter.\n",
        "zeros.png": b"\0" * 5000,
        "bomb.png": png_header(50_000, 50_000),
        "bomb-small.png": png_header(14_000, 14_000),  # 196,000,000 pixels: less than twice the limit
        "text.pdf": b"Dear reader,\nthis is a letter.\n",
        "damaged.pdf": b"%PDF-1.4\n" + b"\0" * 100,
        "poster.png": (EXAMPLES / "poster.png").read_bytes(),
        "sub/hello.png": hello(),
        b"caf\xe9 50%.png": hello(),
        "two\nlines.png": hello(),
        "dot.png": png_bytes(Image.new("RGB", (1, 1), "black")),
        "1x30000.png": png_bytes(Image.new("RGB", (1, 30_000), "black")),
        "page.pdf": page_pdf(),
        "encrypted.pdf": ENCRYPTED_PDF.read_bytes(),
        "locked.png": hello(),
        "locked.pdf": ENCRYPTED_PDF.read_bytes(),
        "shut/hello.png": hello(),
        ".hidden.png": b"",
        "notes.txt": b"no picture, and not asked for",
    }
    for name, data in contents.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    links = {"dangling.png": "nowhere.png", "loop.png": "loop.png", "loop-a.png": "loop-b.png"}
    for name, target in {**links, "loop-b.png": "loop-a.png", "sub/up": ".."}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    for name in LOCKED:
        (folder / name).chmod(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The finished process, and the lines of its output."""
    folder = tmp_path_factory.mktemp("broken")
    if not permissions_bind(folder):
        pytest.skip("root passes over permissions here, and may not give that up")
    (folder / "in").mkdir()
    fill(folder / "in")
    done = caption(folder / "in", ".", "--type", "ocr", "-o", "../out.jsonl")
    lines = (folder / "out.jsonl").read_bytes().split(b"\n")
    (folder / "in" / "shut").chmod(0o700)
    return done, lines


@pytest.fixture(scope="module")
def records(run):
    """id -> record; no id twice."""
    _, lines = run
    found = [json.loads(line.decode("utf-8", "strict")) for line in lines[:-1]]
    by_id = {record["id"]: record for record in found}
    assert len(by_id) == len(found)
    return by_id


def test_the_output_is_json_a_line_in_utf8(run, records):
    _, lines = run
    assert lines[-1] == b""  # the last line is ended too
    assert all(json.dumps(record, ensure_ascii=False).encode() for record in records.values())  # no lone surrogates


def test_every_input_has_one_record(records):
    assert sorted(records) == sorted([*BROKEN, *LOCKED, *GOOD])


@pytest.mark.parametrize("name", [*BROKEN, *LOCKED])
def test_a_broken_input_is_an_error_that_a_person_understands(records, name):
    kind, words = {**BROKEN, **LOCKED}[name]
    record = records[name]
    assert (record["status"], record["caption"], record["error"]["kind"]) == ("error", None, kind)
    message = record["error"]["message"]
    assert [word for word in words if word.lower() not in message.lower()] == []
    assert len(message) < 250
    assert not re.search(r"Errno|Traceback|\b0x|<|Error\(|/in/", message)


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_a_good_input_beside_them_is_captioned(records, name):
    record = records[name]
    assert (record["status"], record.get("error")) == ("ok", None)
    assert [word for word in GOOD[name] if word not in record["caption"]] == []
    if not GOOD[name]:
        assert record["caption"] == ""


def test_the_exit_code_says_that_some_failed(run):
    done, _ = run
    assert done.returncode == 3


def test_the_terminal_sees_no_traceback_and_no_raw_bytes(run):
    done, _ = run
    assert done.stdout == b""
    said = done.stderr.decode("utf-8", "strict")
    assert "Traceback" not in said
    assert "two\nlines" not in said  # a line break in a name is escaped
    assert f"{len(GOOD)} captioned" in said
    assert f"{len(BROKEN) + len(LOCKED)} failed" in said


def test_rows_that_share_an_id_are_errors_and_the_run_goes_on(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    for name in names:
        Image.new("RGB", (64, 64), "white").save(tmp_path / name)
    rows = "".join(json.dumps({"image": name, "id": "same"}) + "\n" for name in [*names, "b.png", "a.png"])
    broken = '{"image": "a.png"\n{"image": "b.png"\n'
    done = caption(tmp_path, "-", "--type", "ocr", "-o", "out.jsonl", stdin=(rows + broken).encode())
    assert b"Traceback" not in done.stderr
    assert done.returncode == 3, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    kinds = [record["error"]["kind"] if record["status"] == "error" else "ok" for record in found]
    assert sorted(kinds) == ["DuplicateIdError"] * 3 + ["ManifestError"] * 2 + ["ok"]


def test_nothing_but_broken_inputs(tmp_path):
    (tmp_path / "a.png").touch()
    done = caption(tmp_path, ".", "missing.png", "--type", "ocr")
    assert b"Traceback" not in done.stderr
    assert done.returncode == 3, done.stderr
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [(record["id"], record["error"]["kind"]) for record in found] == [
        ("a.png", "EmptyFileError"),
        ("missing.png", "NotFoundError"),
    ]
