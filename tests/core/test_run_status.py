"""What `status` says of journals and of the notes beside them, the numbers worked out by hand."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from omnicap_cli.core.run_meta import RunMeta
from omnicap_cli.core.status import read_status
from omnicap_cli.errors import JournalError, JournalWriteError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def line_of(number: int, status: str = "ok", *, kind: str = "DecodeError", tokens: int = 0) -> bytes:
    record: dict[str, Any] = {
        "status": status,
        "output_tokens": tokens,
        "key": hashlib.sha256(b"%d" % number).hexdigest(),
    }
    if status == "error":
        record["error"] = {"kind": kind, "message": "…"}
    return json.dumps(record).encode() + b"\n"


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def note(path: Path, **values: Any) -> None:
    """Write the note of a run by hand; `updated` too, which `RunMeta.write` would set to now."""
    RunMeta(**{name: value for name, value in values.items() if name != "updated"}).write(path)
    target = RunMeta.path_of(path)
    content = json.loads(target.read_text()) | values
    target.write_text(json.dumps(content))


# ---------------------------------------------------------------------------------------------- the records


def test_newest_records_count(path):
    path.write_bytes(
        line_of(1, tokens=10)
        + line_of(2, "error")
        + line_of(3, "error", kind="InferenceError")
        + line_of(4, "error", kind="InferenceError")
        + line_of(2, tokens=5)  # tried again, with success
        + line_of(3, "error", kind="DecodeError")  # tried again, and failed in another way
    )
    status = read_status(path)
    assert (status.num_ok, status.num_failed, status.num_output_tokens) == (2, 2, 15)
    assert status.errors == {"DecodeError": 1, "InferenceError": 1}
    assert status.state == "unknown"


def test_tokens_of_a_superseded_record_do_not_count(path):
    path.write_bytes(line_of(1, "error", tokens=7) + line_of(1, tokens=100_000) + line_of(1, tokens=3))
    assert read_status(path).num_output_tokens == 3


def test_most_frequent_errors_first(path):
    kinds = ["AccessError", "DecodeError", "DecodeError", "TooLargeError", "TooLargeError", "TooLargeError"]
    path.write_bytes(b"".join(line_of(number, "error", kind=kind) for number, kind in enumerate(kinds)))
    assert list(read_status(path).errors.items()) == [("TooLargeError", 3), ("DecodeError", 2), ("AccessError", 1)]


def test_broken_lines_are_counted_and_nothing_is_touched(path):
    content = line_of(1) + b"{broken\n" + b"\n" + line_of(2) + line_of(3)[:-9]
    path.write_bytes(content)
    status = read_status(path)
    assert (status.num_ok, status.num_broken_lines) == (2, 2)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("tokens", [None, -1, 2.5, "many"])
def test_odd_token_counts(path, tokens):
    path.write_bytes(line_of(1).replace(b'"output_tokens": 0', b'"output_tokens": ' + json.dumps(tokens).encode()))
    assert read_status(path).num_ok == 1


def test_an_empty_journal(path):
    path.touch()
    status = read_status(path)
    assert (status.num_ok, status.num_failed, status.errors) == (0, 0, {})


@pytest.mark.parametrize("content", [b"Dear diary,\n", b'{"a": 1}\n{"a": 2}\n', b"\x89PNG\r\n\x1a\n\0\0\n"])
def test_what_is_no_journal_has_no_status(path, content):
    path.write_bytes(content)
    with pytest.raises(JournalError, match="not a journal"):
        read_status(path)
    assert path.read_bytes() == content


def test_no_journal(path):
    with pytest.raises(JournalError, match="can't read"):
        read_status(path)


# ------------------------------------------------------------------------------------------------- the run


def test_a_run_that_goes_on(path):
    path.write_bytes(line_of(1))
    now = time.time()
    note(path, started=now - 100, updated=now - 50, num_requests=1000, num_handled=700, num_finished=200)
    status = read_status(path)
    assert status.state == "running"
    assert (status.num_requests, status.num_left) == (1000, 300)
    assert status.rate == pytest.approx(200 / 50, rel=1e-3)  # over the time that the counts are of
    assert status.seconds_left == pytest.approx(300 / 4, rel=1e-2)
    assert 100 <= status.seconds < 200


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_a_run_that_ended(path, state):
    path.write_bytes(line_of(1))
    note(
        path,
        state=state,
        started=1000.0,
        updated=1010.0,
        ended=1010.0,
        num_requests=50,
        num_handled=20,
        num_finished=20,
    )
    status = read_status(path)
    assert status.state == state
    assert (status.seconds, status.rate, status.num_left, status.seconds_left) == (10.0, 2.0, 30, None)


def test_a_run_that_was_killed(path):
    path.write_bytes(line_of(1))
    note(path, pid=dead_pid(), started=1000.0, updated=1004.0, num_handled=2, num_finished=2)
    status = read_status(path)
    assert (status.state, status.seconds, status.rate) == ("killed", 4.0, 0.5)
    assert (status.num_requests, status.num_left, status.seconds_left) == (None, None, None)


def test_a_run_on_another_machine(path):
    path.write_bytes(line_of(1))
    note(path, host=f"not-{socket.gethostname()}", pid=dead_pid(), started=time.time(), updated=time.time())
    assert read_status(path).state == "running"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"unknown": 1}', b'{"started": "x"}', b"\xff\xfe"])
def test_a_note_that_cannot_be_read_is_no_note(path, content):
    path.write_bytes(line_of(1))
    RunMeta.path_of(path).write_bytes(content)
    status = read_status(path)
    assert (status.state, status.num_ok) == ("unknown", 1)


def test_a_note_holds_any_command(path):
    words = ["omnicap", "caption", os.fsdecode(b"caf\xe9.png"), "图.png"]
    RunMeta(command=words, settings={"model": os.fsdecode(b"\xff")}).write(path)
    meta = RunMeta.read(path)
    assert meta.command == ["omnicap", "caption", r"caf\udce9.png", "图.png"]


def test_a_note_that_the_disk_refuses(tmp_path):
    path = tmp_path / "nowhere" / "out.jsonl"
    with pytest.raises(JournalWriteError, match="can't write"):
        RunMeta().write(path)
    RunMeta().end("finished", path)  # which is no reason to lose how the run ended


# --------------------------------------------------------------------------------------- after real runs


def status_of(omnicap: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "omnicap_cli", "status", "out.jsonl", "--json"]
    return json.loads(subprocess.run(command, cwd=omnicap.folder, check=True, capture_output=True).stdout)


def test_status_after_runs(omnicap, make_pictures):
    make_pictures(5)
    assert omnicap.run("in", "-o", "out.jsonl", fail=["0003"]).returncode == 3
    status = status_of(omnicap)
    assert (status["state"], status["num_ok"], status["errors"]) == ("finished", 4, {"InferenceError": 1})
    assert (status["num_requests"], status["num_left"]) == (5, 0)
    assert status["num_output_tokens"] == 4 * 3  # the fake engine says three for each
    omnicap.run("in", "-o", "out.jsonl", "--retry-failed", die_after=0)
    assert status_of(omnicap)["state"] == "killed"
    assert omnicap.run("in", "-o", "out.jsonl", "--retry-failed").returncode == 0
    status = status_of(omnicap)
    assert (status["state"], status["num_ok"], status["num_failed"]) == ("finished", 5, 0)


def test_the_latest_run_may_have_had_less_to_do_than_the_journal_holds(omnicap, make_pictures):
    ids = make_pictures(5)
    assert omnicap.run("in", "-o", "out.jsonl", "--style", "short").returncode == 0
    assert omnicap.run("in", "-o", "out.jsonl", "--style", "tag", "--limit", "3", fail=[ids[1]]).returncode == 3
    status = status_of(omnicap)
    assert (status["num_ok"], status["num_failed"]) == (5 + 2, 1)
    names = ("num_requests", "num_handled", "num_run_failed", "num_left")
    assert [status[name] for name in names] == [3, 3, 1, 0]
    assert omnicap.run("in", "-o", "out.jsonl", "--style", "short", "--limit", "2").returncode == 0
    status = status_of(omnicap)
    assert [status[name] for name in ("num_ok", "num_failed", *names)] == [7, 1, 2, 2, 0, 0]


def test_status_while_it_runs_and_after_an_interrupt(omnicap, make_pictures):
    make_pictures(200)
    process = omnicap.start("in", "-o", "out.jsonl", seconds=0.1)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 2)
    assert status_of(omnicap)["state"] == "running"
    process.terminate()
    process.communicate(timeout=60)
    status = status_of(omnicap)
    assert status["state"] == "interrupted"
    assert 2 <= status["num_ok"] < 200
