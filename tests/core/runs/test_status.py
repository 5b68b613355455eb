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

from omnicap_cli.core.runs.run_note import RunMeta, find_journal, journal_beside
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.core.runs.status import read_status, read_statuses, total_of
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


@pytest.mark.parametrize("num_records", [0, 2])
def test_what_was_lost_since_the_run_is_left(path, num_records):
    path.write_bytes(b"".join(map(line_of, range(num_records))))
    note(path, state="finished", started=1000.0, ended=1010.0, num_requests=5, num_handled=5, num_finished=5)
    assert read_status(path).num_left == 5 - num_records


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_a_run_that_ended(path, state):
    path.write_bytes(b"".join(map(line_of, range(20))))
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


def test_a_note_says_the_shard_and_the_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunMeta(shard="2/8").write(path)
    meta = RunMeta.read(path)
    assert (meta.shard, meta.folder) == ("2/8", str(tmp_path))


def test_a_note_of_an_earlier_version_says_neither(path):
    """Where it is read is not where the run was."""
    RunMeta().write(path)
    target = RunMeta.path_of(path)
    values = {name: value for name, value in json.loads(target.read_text()).items() if name not in ("shard", "folder")}
    target.write_text(json.dumps(values))
    meta = RunMeta.read(path)
    assert (meta.shard, meta.folder) == (None, None)


def test_a_run_in_a_folder_that_was_removed(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert RunMeta().folder is None


@pytest.mark.parametrize(
    "values",
    [{"num_requests": "all"}, {"num_handled": None}, {"settings": []}, {"shard": 2}, {"state": 1}, {"ended": "now"}],
)
def test_a_note_with_values_of_another_kind_is_no_note(path, values):
    path.write_bytes(line_of(1))
    note(path, **values)
    assert read_status(path).state == "unknown"


# ---------------------------------------------------------------------------------------- several journals


@pytest.mark.parametrize(
    ("output", "journal"),
    [
        ("train.jsonl", "train.jsonl.journal.jsonl"),
        ("out.csv", "out.csv.journal.jsonl"),
        ("a/out-0.parquet", "a/out-0.parquet.journal.jsonl"),
        ("captions/", "captions.journal.jsonl"),
        ("./", "captions.journal.jsonl"),
    ],
)
def test_where_the_journal_of_an_output_is(output, journal):
    assert journal_beside(Path(output)) == Path(journal)


def test_the_journal_beside_an_export_is_meant(tmp_path):
    export, journal = tmp_path / "out.csv", tmp_path / "out.csv.journal.jsonl"
    export.write_text("id,caption\n")
    assert find_journal(export) == export
    journal.write_bytes(line_of(1))
    assert find_journal(export) == find_journal(journal) == journal
    assert [entry.status.num_ok for entry in read_statuses([export, journal])] == [1]  # and counted once
    renamed = tmp_path / "old.txt"
    renamed.write_bytes(line_of(1) + line_of(2))
    assert read_status(find_journal(renamed)).num_ok == 2


def test_the_total_of_shards(tmp_path):
    now = time.time()
    paths = [tmp_path / f"{index}.jsonl" for index in range(3)]
    paths[0].write_bytes(line_of(1, tokens=3) + line_of(2, "error") + line_of(3, "error", kind="AccessError"))
    paths[1].write_bytes(line_of(4, tokens=4) + b"{broken\n" + line_of(5, "error"))
    paths[2].write_bytes(line_of(6))
    going_on = {"started": now - 10, "updated": now}
    note(paths[0], shard="0/5", num_requests=103, num_handled=3, num_finished=20, **going_on)
    note(paths[1], shard="1/5", num_requests=42, num_handled=2, num_finished=10, **going_on)
    counts = {"num_requests": 1, "num_handled": 1, "num_finished": 1}
    note(paths[2], shard="3/5", state="finished", started=1000.0, updated=1001.0, **counts)
    entries = read_statuses(paths)
    assert [entry.shard for entry in entries] == [Shard(0, 5), Shard(1, 5), Shard(3, 5)]
    total = total_of(entries)
    assert (total.num_journals, total.num_unreadable) == (3, 0)
    assert total.states == {"running": 2, "finished": 1}
    assert (total.num_ok, total.num_failed, total.num_output_tokens, total.num_broken_lines) == (3, 3, 7, 1)
    assert list(total.errors.items()) == [("DecodeError", 2), ("AccessError", 1)]
    assert (total.num_requests, total.num_handled, total.num_left) == (146, 6, 140)
    assert total.rate == pytest.approx(2 + 1, rel=1e-2)
    assert total.seconds_left == pytest.approx(100 / 2, rel=1e-2)  # side by side: the slowest decides
    assert total.missing_shards == [Shard(2, 5), Shard(4, 5)]


def test_the_total_of_what_nobody_counted(tmp_path):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"]
    for path in paths:
        path.write_bytes(line_of(1))
    now = time.time()
    note(paths[0], num_requests=10, num_handled=5, num_finished=5, started=now - 10, updated=now)
    note(paths[1], num_handled=5, num_finished=5, started=now - 10, updated=now)
    total = total_of(read_statuses(paths))
    assert total.states == {"running": 2, "unknown": 1}
    assert (total.num_requests, total.num_left, total.seconds_left) == (None, None, None)
    assert total.num_ok == 3
    assert total_of([]).num_left is None


def test_what_cannot_be_read_does_not_hide_the_others(tmp_path):
    good, diary = tmp_path / "good.jsonl", tmp_path / "diary.jsonl"
    good.write_bytes(line_of(1))
    diary.write_text("Dear diary,\n")
    entries = read_statuses([tmp_path / "no.jsonl", good, diary])
    assert [entry.status is None for entry in entries] == [True, False, True]
    assert "No such file" in entries[0].error
    assert "not a journal" in entries[2].error
    total = total_of(entries)
    assert (total.num_journals, total.num_unreadable, total.num_ok) == (3, 2, 1)


@pytest.mark.parametrize("tokens", [2**48, 2**63])
def test_token_counts_that_no_model_reaches(path, tokens):
    lines = [line_of(number, tokens=tokens) for number in range(70_000)]  # more than an index keeps in a dict
    path.write_bytes(b"".join(lines))
    assert read_status(path).num_output_tokens == 0


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
