"""What a journal keeps when lines are torn, broken or superseded, when the disk fails, and when two want to write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnicap_cli.core.runs.journal import Journal, KnownOutcome, read_index
from omnicap_cli.errors import JournalError, JournalLockedError, JournalWriteError


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def line_of(number: int, status: str = "ok", attempts: int = 1, caption: str = "a caption") -> bytes:
    record = {"id": str(number), "caption": caption, "status": status, "attempts": attempts, "key": key_of(number)}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def append(journal: Journal, number: int, status: str = "ok", attempts: int = 1) -> bytes:
    line = line_of(number, status, attempts)
    journal.append(key_of(number), status, attempts, line)
    return line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


# ------------------------------------------------------------------------------------------- any history

EVENTS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 6), st.sampled_from(["ok", "error"])),
    st.tuples(st.just("reopen"), st.just(0), st.just("")),
    st.tuples(st.just("torn"), st.integers(1, 60), st.just("")),  # a crash that left so much of a line
    st.tuples(st.just("no newline"), st.just(0), st.just("")),  # a crash that took only the newline
    st.tuples(st.just("broken"), st.sampled_from([0, 1, 2]), st.just("")),
)
BROKEN = [b"{broken\n", b"\0\0\0\0\n", b"[1, 2]\n"]


@given(st.lists(EVENTS, max_size=25))
@settings(max_examples=60)
def test_any_history_is_remembered(events):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        lines: list[bytes] = [line_of(99)]  # so that it is a journal, whatever breaks
        path.write_bytes(lines[0])
        known = {99: KnownOutcome("ok", 1)}
        journal = Journal(path)
        for attempt, (event, number, status) in enumerate(events):
            if event == "append":
                lines = [line for line in lines if b'"id":"%d"' % number not in line]
                lines.append(append(journal, number, status, attempt))
                known[number] = KnownOutcome(status, attempt)
                continue
            journal.close()
            with path.open("ab") as file:
                if event == "torn":
                    file.write(line_of(7)[:number])
                elif event == "broken":
                    file.write(BROKEN[number])
                    lines.append(BROKEN[number])
            if event == "no newline" and not lines[-1].startswith(b"{broken") and b"key" in lines[-1]:
                os.truncate(path, path.stat().st_size - 1)
            journal = Journal(path)
            assert journal.num_broken_lines == sum(line in BROKEN for line in lines)
        for number in range(8):
            assert journal.known(key_of(number)) == known.get(number)
        journal.close()
        assert path.read_bytes() == b"".join(lines)


# ------------------------------------------------------------------------------------- what stands in files


def test_a_new_file_and_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "out.jsonl"
    with Journal(path) as journal:
        assert len(journal) == 0
        line = append(journal, 1)
        assert path.read_bytes() == line  # at once, for whoever reads along
    assert read_index(path).known(key_of(1)) == KnownOutcome("ok", 1)


def test_an_empty_file_is_an_empty_journal(path):
    path.touch()
    with Journal(path) as journal:
        line = append(journal, 1)
    assert path.read_bytes() == line


def test_a_torn_last_line_is_cut_off(path):
    path.write_bytes(line_of(1) + line_of(2)[:-20])
    with Journal(path) as journal:
        assert journal.known(key_of(1))
        assert not journal.known(key_of(2))
        line = append(journal, 3)
    assert path.read_bytes() == line_of(1) + line


def test_a_torn_only_line_is_cut_off(path):
    path.write_bytes(line_of(1)[:-20])
    with Journal(path) as journal:
        line = append(journal, 2)
    assert path.read_bytes() == line


def test_a_last_line_without_its_newline_gets_one(path):
    path.write_bytes(line_of(1) + line_of(2)[:-1])
    with Journal(path) as journal:
        assert journal.known(key_of(2)) == KnownOutcome("ok", 1)
        line = append(journal, 3)
    assert path.read_bytes() == line_of(1) + line_of(2) + line


@pytest.mark.parametrize(
    "broken",
    [b'{"key": "0\n', b"\0" * 300 + b"\n", b"[]\n", b"17\n", b'"text"\n', b"\xff\xfe\n", b'{"status": "ok"}\n'],
    ids=["torn", "zeros", "list", "number", "string", "not-utf8", "no-key"],
)
def test_a_broken_line_is_passed_over_and_kept(path, broken):
    path.write_bytes(line_of(1) + broken + line_of(2))
    with Journal(path) as journal:
        assert journal.num_broken_lines == 1
        assert journal.known(key_of(1))
        assert journal.known(key_of(2))
        line = append(journal, 3)
    assert path.read_bytes() == line_of(1) + broken + line_of(2) + line


@pytest.mark.parametrize("record", [{"status": "ok", "key": 7}, {"status": "done", "key": "00" * 32}, {"key": "zz"}])
def test_json_that_is_no_record(path, record):
    path.write_bytes(line_of(1) + json.dumps(record).encode() + b"\n" + line_of(2))
    contents = read_index(path)
    assert (contents.num_records, contents.num_broken_lines) == (2, 1)


def test_zeros_at_the_end_are_cut_off(path):
    """Some file systems leave zeros where a power cut lost the data."""
    path.write_bytes(line_of(1) + b"\0" * 4096)
    with Journal(path) as journal:
        line = append(journal, 2)
    assert path.read_bytes() == line_of(1) + line


def test_empty_lines_are_no_broken_lines(path):
    path.write_bytes(line_of(1) + b"\n\n" + line_of(2))
    with Journal(path) as journal:
        assert journal.num_broken_lines == 0
        assert len(journal) == 2


def test_newlines_of_windows(path):
    path.write_bytes(line_of(1)[:-1] + b"\r\n" + line_of(2))
    with Journal(path) as journal:
        assert len(journal) == 2
        assert journal.num_broken_lines == 0


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary,\ntoday\n",
        b'{"a": 1}\n{"a": 2}\n',
        b"\x89PNG\r\n\x1a\n\0\0",
        b"one line, no newline",
        b'{"image": "a.png", "label": "cat"}',
        b"[1, 2, 3]",
    ],
    ids=["text", "other-jsonl", "binary", "text-without-newline", "object-without-newline", "list-without-newline"],
)
def test_a_file_that_is_no_journal_is_refused_and_untouched(path, content):
    path.write_bytes(content)
    with pytest.raises(JournalError, match="left alone") as refusal:
        Journal(path)
    assert "--overwrite" in (refusal.value.hint or "")
    assert path.read_bytes() == content
    with Journal(path, overwrite=True) as journal:  # the lock was let go, and overwriting was asked for
        line = append(journal, 1)
    assert path.read_bytes() == line


def test_overwrite_begins_anew(path):
    path.write_bytes(line_of(1) + line_of(2))
    with Journal(path, overwrite=True) as journal:
        assert journal.known(key_of(1)) is None
        line = append(journal, 1)
    assert path.read_bytes() == line


def test_reading_changes_nothing(path):
    content = line_of(1) + line_of(2)[:-20]
    path.write_bytes(content)
    assert len(read_index(path).index) == 1
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_reading_what_is_not_there(path):
    assert read_index(path).num_records == 0
    assert not path.exists()


# ------------------------------------------------------------------------------------------- superseded lines


def test_the_last_line_of_a_key_counts(path):
    path.write_bytes(line_of(1, "error", 1) + line_of(2) + line_of(1, "ok", 2))
    contents = read_index(path)
    assert contents.known(key_of(1)) == KnownOutcome("ok", 2)
    assert len(contents.index) == 2


def test_compaction_keeps_the_order_of_the_others(path):
    with Journal(path) as journal:
        for number in (1, 2, 3, 4):
            append(journal, number, "error" if number in (2, 3) else "ok")
        append(journal, 3, "ok", 2)
        append(journal, 2, "error", 2)
        assert path.read_bytes().count(b"\n") == 6  # superseded lines go when the run ends, not before
    assert path.read_bytes() == line_of(1) + line_of(4) + line_of(3, "ok", 2) + line_of(2, "error", 2)


def test_compaction_of_what_a_killed_run_left(path):
    path.write_bytes(line_of(1, "error") + line_of(2) + line_of(1, "error", 2) + b"{broken\n" + line_of(1, "ok", 3))
    Journal(path).close()
    assert path.read_bytes() == line_of(2) + b"{broken\n" + line_of(1, "ok", 3)


def test_without_superseded_lines_the_file_stays_the_same_one(path):
    path.write_bytes(line_of(1))
    before = path.stat().st_ino
    with Journal(path) as journal:
        append(journal, 2)
    assert path.stat().st_ino == before


def test_superseded_lines_may_be_left_to_the_next_run(path):
    content = line_of(1, "error") + line_of(1, "ok", 2)
    path.write_bytes(content)
    Journal(path).close(compact=False)
    assert path.read_bytes() == content
    with pytest.raises(ZeroDivisionError), Journal(path):  # a run that breaks doesn't stay to tidy up
        raise ZeroDivisionError
    assert path.read_bytes() == content
    Journal(path).close()
    assert path.read_bytes() == line_of(1, "ok", 2)


def test_compaction_follows_a_link_and_keeps_the_mode(tmp_path, path):
    target = tmp_path / "elsewhere.jsonl"
    target.write_bytes(line_of(1, "error") + line_of(1, "ok", 2))
    target.chmod(0o640)
    path.symlink_to(target)
    Journal(path).close()
    assert path.is_symlink()
    assert target.read_bytes() == line_of(1, "ok", 2)
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_while_compacting_leaves_the_journal(path, monkeypatch):
    content = line_of(1, "error") + line_of(2) + line_of(1, "ok", 2)
    path.write_bytes(content)
    journal = Journal(path)
    sync = os.fsync

    def full(descriptor: int) -> None:
        partial = path.parent.glob(".*.partial")
        if any(os.path.samestat(os.fstat(descriptor), each.stat()) for each in partial):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    journal.close()
    assert path.read_bytes() == content
    assert not list(path.parent.glob(".*.partial"))


# --------------------------------------------------------------------------------------------- two writers


def test_a_second_writer_is_kept_out(path):
    with Journal(path) as journal:
        first = append(journal, 1)
        for overwrite in (False, True):
            with pytest.raises(JournalLockedError, match="another omnicap process"):
                Journal(path, overwrite=overwrite)
        second = append(journal, 2)
    assert path.read_bytes() == first + second
    Journal(path).close()


def test_a_second_writer_through_a_link_is_kept_out(tmp_path, path):
    path.touch()
    (tmp_path / "link.jsonl").symlink_to(path)
    with Journal(path), pytest.raises(JournalLockedError):
        Journal(tmp_path / "link.jsonl")


def test_closing_twice(path):
    journal = Journal(path)
    line = append(journal, 1)
    journal.close()
    with Journal(path) as other:  # the lock is free
        journal.close()
        with pytest.raises(JournalLockedError):  # and the second close took it from nobody
            Journal(path)
        append(other, 2)
    assert path.read_bytes() == line + line_of(2)


# --------------------------------------------------------------------------------------- a disk that fails


def fill_disk(monkeypatch: pytest.MonkeyPatch, path: Path, num_free_bytes: int) -> None:
    """Let writes to `path` succeed until so many bytes are written, then as on a full disk."""
    write, free = os.write, [num_free_bytes]

    def write_while_there_is_room(descriptor: int, content: bytes) -> int:
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            return write(descriptor, content)
        if not free[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        num_written = write(descriptor, content[: free[0]])
        free[0] -= num_written
        return num_written

    monkeypatch.setattr(os, "write", write_while_there_is_room)


@pytest.mark.parametrize("num_bytes_of_second", [0, 1, 50])
def test_a_line_that_the_disk_takes_in_part_is_taken_back(path, monkeypatch, num_bytes_of_second):
    journal = Journal(path)
    fill_disk(monkeypatch, path, len(line_of(1)) + num_bytes_of_second)
    append(journal, 1)
    with pytest.raises(JournalWriteError, match="No space left on device"):
        append(journal, 2)
    assert journal.known(key_of(2)) is None
    journal.close()
    assert path.read_bytes() == line_of(1)
    monkeypatch.undo()
    with Journal(path) as journal:
        append(journal, 2)
    assert path.read_bytes() == line_of(1) + line_of(2)


def test_no_room_for_the_missing_newline(path, monkeypatch):
    path.write_bytes(line_of(1)[:-1])
    fill_disk(monkeypatch, path, 0)
    with pytest.raises(JournalWriteError, match="No space left on device"):
        Journal(path)
    assert path.read_bytes() == line_of(1)[:-1]


def append_slowly(journal: Journal) -> None:
    for number in range(1000):
        append(journal, number)
        time.sleep(0.01)


def fail_to_sync(_descriptor: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_loses_what_it_took_is_reported_at_the_end(path, monkeypatch):
    journal = Journal(path)
    append(journal, 1)
    monkeypatch.setattr(os, "fsync", fail_to_sync)
    with pytest.raises(JournalWriteError, match="Input/output error"):
        journal.close()
    monkeypatch.undo()
    Journal(path).close()  # the lock was let go all the same


def test_a_disk_that_loses_what_it_took_is_noticed_on_the_way(path, monkeypatch):
    monkeypatch.setattr("omnicap_cli.core.runs.journal.SYNC_SECONDS", 0.01)
    journal = Journal(path)
    monkeypatch.setattr(os, "fsync", fail_to_sync)
    with pytest.raises(JournalWriteError, match="Input/output error"):
        append_slowly(journal)
    with pytest.raises(JournalWriteError):
        journal.close()


def test_a_folder_in_the_place_of_the_file(path):
    path.mkdir()
    with pytest.raises(JournalError):
        Journal(path)
    with pytest.raises(JournalError):
        read_index(path)


def test_a_link_to_itself_in_the_place_of_the_file(path):
    path.symlink_to(path)
    with pytest.raises(JournalWriteError, match=r"out\.jsonl"):
        Journal(path)


def test_a_file_in_the_place_of_the_folder(path):
    path.touch()
    with pytest.raises(JournalWriteError):
        Journal(path / "out.jsonl")
