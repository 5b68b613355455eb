"""`omnicap tokenize` on data as people have them: damaged, huge, packed, piped or empty."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from support.tokenize_runs import line_of, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture

from omnicap_cli.datasets.tokenizing import unpacking
from omnicap_cli.errors import JournalWriteError, OmnicapError, UsageError

LINES = [line_of(record(n)) for n in range(3)]
BOM = b"\xef\xbb\xbf"
MEASURED = r"""
import re, sys
from omnicap_cli import app
try:
    app.main()
finally:
    with open("/proc/self/status") as status:  # getrusage knows the memory of whoever started it too
        print("peak", re.search(r"VmHWM:\s*(\d+) kB", status.read())[1], file=sys.stderr)
"""


def ids(tokenizing: Any) -> list[Any]:
    return [each["id"] for each in tokenizing.kept()]


# ------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("content", "kept", "rejected_lines"),
    [
        (b"".join(LINES).rstrip(b"\n"), [0, 1, 2], []),
        (b"".join(LINES).replace(b"\n", b"\r\n"), [0, 1, 2], []),
        (BOM + b"".join(LINES), [0, 1, 2], []),
        (BOM, [], []),
        (b"\n\n" + LINES[0] + b" \t\n" + LINES[1] + b"\n\n", [0, 1], []),
        (LINES[0] + LINES[1].replace(b"harbour", b"har\0bour") + LINES[2], [0, 2], [2]),
        (LINES[0] + LINES[1].replace(b"harbour", b"har\xffbour") + LINES[2], [0, 2], [2]),
        (LINES[0] + LINES[1].replace(b"harbour", b"har\\ud800bour") + LINES[2], [0, 2], [2]),
        (LINES[0] + LINES[1].replace(b"harbour", b"har\nbour") + LINES[2], [0, 2], [2, 3]),
        (LINES[0] + b"\0" * 5000 + b"\n" + LINES[2], [0, 2], [2]),
        (b"\0" * 100_000, [], [1]),
        (LINES[0] + b"\0" * 100_000, [0], [2]),
        (LINES[0] + LINES[1][:-20], [0], [2]),
        (LINES[0][:-1] + LINES[1], [], [1]),
        (LINES[0] + LINES[0] + LINES[0], [0, 0, 0], []),
        (b"\x0b\x0c \n" + LINES[0], [0], []),
        (LINES[0] + b"[" * 100_000 + b"\n" + LINES[1], [0, 1], [2]),
    ],
    ids=[
        *("no-newline-at-the-end", "crlf", "bom", "bom-alone", "blank-lines", "nul-within", "not-utf-8", "surrogate"),
        *("broken-line", "line-of-nuls", "nuls-alone", "nuls-at-the-end", "cut-off", "two-in-a-line", "one-id"),
        *("odd-blanks", "deep"),
    ],
)
def test_bytes(tokenizing, content, kept, rejected_lines) -> None:
    tokenizing.data(content)
    report = tokenizing.here()
    assert ids(tokenizing) == [f"r{n}" for n in kept]
    assert [each["line"] for each in tokenizing.rejected()] == rejected_lines
    assert {each["reason"] for each in tokenizing.rejected()} <= {"not_json"}
    assert report.num_in == report.num_kept + report.num_rejected == len(kept) + len(rejected_lines)
    for line in tokenizing.output().splitlines():
        assert line.startswith(b"{")
        assert not line.endswith(b"\r")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_another_encoding_is_rejected_and_nothing_else_happens(tokenizing, encoding) -> None:
    tokenizing.data(b"".join(LINES).decode().encode(encoding))
    report = tokenizing.here()
    assert report.num_kept == 0
    assert report.rejected == {"not_json": report.num_in}
    assert report.num_in >= 3


def test_a_mark_within_a_later_split(tokenizing) -> None:
    """Two files with marks, joined by cat: only that at the beginning of the data is one."""
    tokenizing.data(BOM + LINES[0] + BOM + LINES[1])
    assert tokenizing.here(num_splits=2).rejected == {"not_json": 1}


@pytest.mark.parametrize("content", [b"", b"\n\n \r\n", BOM])
def test_no_records_are_a_warning(tokenizing, content) -> None:
    tokenizing.data(content)
    done = tokenizing.run("--splits", "2", "--workers", "1")
    assert done.returncode == 0
    assert "warning: there are no records" in done.stderr
    report = json.loads(done.stdout)
    assert (report["num_in"], report["lengths"]["max"], report["histogram"]) == (0, None, [])
    assert [tokenizing.output(n) for n in (1, 2)] == [b"", b""]
    assert tokenizing.note(2)["num_kept"] == 0


# ------------------------------------------------------------------------------------------------- size


def peak_kib(tokenizing: Any, *words: str) -> int:
    """The memory that a run in one process needed."""
    command = [sys.executable, "-c", MEASURED, "tokenize", "data.jsonl", "-o", "out", *words]
    done = subprocess.run(command, env=tokenizing.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 3), done.stderr
    return int(done.stderr.rpartition("peak ")[2])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_memory_stays_bounded_whatever_a_line_holds(tokenizing) -> None:
    tokenizing.data(LINES)
    usual = peak_kib(tokenizing)
    value = "the quick brown fox jumps over the lazy dog, " * (100 * 1024 * 1024 // 45)
    tokenizing.data([LINES[0], record(1, "<image>", value), LINES[2]])
    assert Path("data.jsonl").stat().st_size > 100_000_000
    assert peak_kib(tokenizing, "--overwrite") < usual + 50_000
    assert ids(tokenizing) == ["r0", "r2"]
    (rejected,) = tokenizing.rejected()
    assert (rejected["reason"], rejected["line"]) == ("line_too_long", 2)
    assert len(rejected) == 3

    longest = (4 << 20) - len(line_of(record(1, "<image>", ""))) + 1
    tokenizing.data([LINES[0], record(1, "<image>", value[:longest]), LINES[2]])
    assert peak_kib(tokenizing, "--overwrite") < usual + 150_000
    assert ids(tokenizing) == ["r0", "r1", "r2"]
    tokenizing.data([LINES[0], record(1, "<image>", value[: longest + 1]), LINES[2]])
    assert tokenizing.here(overwrite=True).rejected == {"line_too_long": 1}


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_memory_does_not_go_with_the_number_of_records(tokenizing) -> None:
    tokenizing.data(LINES)
    usual = peak_kib(tokenizing)
    tokenizing.data(b"".join(line_of(record(n)) for n in range(30_000)))
    assert peak_kib(tokenizing, "--overwrite") < usual + 20_000
    assert len(tokenizing.kept()) == 30_000


# ------------------------------------------------------------------------------------------------- forms

RECORDS = [record(n) for n in range(5)]
CONTENT = b"".join(map(line_of, RECORDS))


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(CONTENT)),
        ("a.jsonl.GZ", gzip.compress(CONTENT[:500]) + gzip.compress(CONTENT[500:])),
        ("a.jsonl.zst", zstd(CONTENT)),
        ("a.zst", zstd(CONTENT[:500]) + zstd(CONTENT[500:])),
        ("a.jsonl.bz2", bz2.compress(CONTENT)),
        ("a.json", json.dumps(RECORDS).encode()),
        ("a.json", BOM + b"\n  " + json.dumps(RECORDS, indent=2).encode()),
        ("a.json", CONTENT),  # so many call lines too
        ("a.json.gz", gzip.compress(BOM + json.dumps(RECORDS, ensure_ascii=False).encode())),
        ("a.txt", CONTENT),
    ],
)
def test_forms(tokenizing, name, content) -> None:
    tokenizing.data(CONTENT)
    tokenizing.here(num_splits=2, output=Path("plain"))
    tokenizing.data(content, name)
    tokenizing.here(name, num_splits=2)
    for split in (1, 2):
        assert tokenizing.kept(split) == tokenizing.kept(split, "plain")
    tokenizing.here(name, num_splits=2)  # which is there already


def test_an_array_is_read_as_it_comes(tokenizing) -> None:
    elements = [RECORDS[0], 7, "text", [], {}, {"a": [1.5, True, None, "ü \ud83d\ude42"]}, RECORDS[1]]
    tokenizing.data(json.dumps(elements).encode(), "a.json")
    report = tokenizing.here("a.json")
    assert ids(tokenizing) == ["r0", "r1"]
    assert report.rejected == {"not_a_record": 3, "empty_conversation": 2}
    assert [each["line"] for each in tokenizing.rejected()] == [2, 3, 4, 5, 6]
    assert tokenizing.rejected()[4]["a"] == [1.5, True, None, "ü 🙂"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", gzip.compress(os.urandom(5000))[:-100], "a.jsonl.gz is damaged: Truncated compressed stream"),
        ("a.jsonl.gz", CONTENT, "a.jsonl.gz is damaged: "),
        ("a.jsonl.gz", gzip.compress(CONTENT) + b"garbage", "a.jsonl.gz is damaged: "),
        ("a.jsonl.zst", zstd(os.urandom(5000))[:-100], "a.jsonl.zst is damaged: Truncated compressed stream"),
        ("a.jsonl.zst", CONTENT, "a.jsonl.zst is damaged: "),
        (
            "a.json",
            json.dumps(RECORDS).encode()[:-30],
            "a.json is no JSON array to its end: parse error: premature EOF",
        ),
        (
            "a.json",
            json.dumps(RECORDS).encode() * 2,
            "a.json is no JSON array to its end: parse error: trailing garbage",
        ),
        ("a.json", b"[NaN]", "a.json is no JSON array to its end: lexical error"),
        ("a.json", b"[" + b'"\xff"' + b"]", "a.json is no JSON array to its end: lexical error"),
        ("a.json", b"[" + b'{"a":' * 300 + b"1" + b"}" * 300 + b"]", "a.json holds a record that can't be written"),
        ("a.json", b"[1%s]" % (b"0" * 40), "a.json is no JSON array to its end: parse error: integer overflow"),
        ("missing.jsonl", None, "DATA: 'missing.jsonl' is no file that can be read"),
        ("in", None, "DATA: 'in' is a folder"),
        ("pipe", None, "DATA: 'pipe' is no file that can be read"),
        ("a\0b", None, "DATA: 'a\\x00b' is no file that can be read"),
    ],
)
def test_data_that_cannot_be_read(tokenizing, name, content, said) -> None:
    os.mkfifo("pipe")
    if content is not None:
        tokenizing.data(content, name)
    with pytest.raises(UsageError) as caught:
        tokenizing.here(name)
    assert caught.value.message.startswith(said)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert [path for path in Path("out").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_name_that_is_not_utf_8(tokenizing) -> None:
    Path(os.fsdecode(b"\xff.jsonl")).write_bytes(CONTENT)
    tokenizing.here(os.fsdecode(b"\xff.jsonl"))
    assert len(tokenizing.kept()) == 5
    Path(os.fsdecode(b"\xff.jsonl.gz")).write_bytes(gzip.compress(CONTENT))
    for _ in range(2):
        tokenizing.here(os.fsdecode(b"\xff.jsonl.gz"))
    os.rename("in", b"\xfe")
    Path("in").mkdir()
    tokenizing.data([record(0, image="0.png")])
    tokenizing.here(image_root=os.fsdecode(b"\xfe"), overwrite=True)
    assert len(tokenizing.kept()) == 1
    with pytest.raises(UsageError, match=r"--name: .* is not UTF-8"):
        tokenizing.here(name=os.fsdecode(b"\xff"))


def test_a_file_is_unpacked_once(tokenizing, monkeypatch) -> None:
    unpacked = []
    lines = unpacking._blocks_of_lines
    monkeypatch.setattr(unpacking, "_blocks_of_lines", lambda file: unpacked.append(1) or lines(file))
    tokenizing.data(gzip.compress(CONTENT), "a.jsonl.gz")
    for index in range(3):
        tokenizing.here("a.jsonl.gz", num_splits=3, split_index=index)
    assert len(unpacked) == 1
    os.utime("a.jsonl.gz", (5, 5))
    tokenizing.here("a.jsonl.gz", num_splits=3)
    assert len(unpacked) == 2
    tokenizing.data(gzip.compress(CONTENT[:-1]), "b.jsonl.gz")  # as old as the other
    os.utime("b.jsonl.gz", (5, 5))
    with pytest.raises(UsageError, match="the data changed"):
        tokenizing.here("b.jsonl.gz", num_splits=3)
    assert len(unpacked) == 3


def test_a_packed_file_that_changes_meanwhile(tokenizing, monkeypatch) -> None:
    lines = unpacking._blocks_of_lines

    def while_it_is_written(file: Any) -> Any:
        yield from lines(file)
        tokenizing.data(gzip.compress(CONTENT + CONTENT), "a.jsonl.gz")

    tokenizing.data(gzip.compress(CONTENT), "a.jsonl.gz")
    with monkeypatch.context() as patched:
        patched.setattr(unpacking, "_blocks_of_lines", while_it_is_written)
        with pytest.raises(OmnicapError, match=r"a\.jsonl\.gz changed while it was read"):
            tokenizing.here("a.jsonl.gz")
    assert tokenizing.here("a.jsonl.gz").num_in == 10


def test_no_room_to_unpack(tokenizing) -> None:
    Path("out").mkdir()
    Path("out/meta").write_text("a file")
    for name in ("a.jsonl.gz", "data.jsonl"):
        tokenizing.data(gzip.compress(CONTENT), name)
        with pytest.raises(JournalWriteError, match="can't write out/meta"):
            tokenizing.here(name)


# ------------------------------------------------------------------------------------------------- stdin


def test_the_standard_input(tokenizing) -> None:
    tokenizing.data(CONTENT)
    tokenizing.here(num_splits=2, output=Path("plain"))
    assert tokenizing.run("--splits", "2", data="-", stdin=CONTENT).returncode == 0
    assert {name: content for name, content in tokenizing.results().items() if name.endswith("l")} == {
        name: content for name, content in tokenizing.results("plain").items() if name.endswith("l")
    }
    assert not Path("out/meta/data.stdin.jsonl").exists()
    made = Path("out/data_split1.jsonl").stat().st_mtime_ns
    again = tokenizing.run("--splits", "2", data="-", stdin=CONTENT)
    assert json.loads(again.stdout)["num_kept"] == 5
    assert Path("out/data_split1.jsonl").stat().st_mtime_ns == made
    other = tokenizing.run("--splits", "2", data="-", stdin=CONTENT + CONTENT)
    assert other.returncode == 2
    assert "the data changed" in other.stderr


def test_an_array_on_the_standard_input(tokenizing) -> None:
    assert tokenizing.run(data="-", stdin=json.dumps(RECORDS).encode()).returncode == 0
    assert ids(tokenizing) == [f"r{n}" for n in range(5)]
