"""Runs without room to write or without permission to: they say so, and what was written stays right.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.caption_runs import assert_complete, assert_fails, assert_right, partial_files
from support.permissions import drop_override

# ------------------------------------------------------------------------------------------------ full disk


def largest_file(num_bytes: int) -> Callable[[], None]:
    """To run in a new process: no file that it writes can grow past so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.mark.parametrize("num_bytes", [3_000, 5_123, 9_999])
def test_a_journal_that_can_grow_no_more(omnicap, make_pictures, num_bytes):
    ids = make_pictures(30)
    full = omnicap.run("in", "-o", "out.jsonl", preexec=largest_file(num_bytes))
    assert_fails(full, "can't write", "out.jsonl", "hint:")
    records = omnicap.records()  # which are whole lines
    assert 0 < len(records) < 30
    assert_right(omnicap, records)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == 30 + 1  # only the one that found no room ran twice


def test_no_room_for_the_note_beside_the_journal(omnicap, make_pictures):
    ids = make_pictures(2)
    assert_fails(omnicap.run("in", "-o", "out.jsonl", preexec=largest_file(50)), "can't write", ".meta.json")
    assert not omnicap.begun
    assert not partial_files(omnicap.folder)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


def test_no_room_to_compact(omnicap, make_pictures):
    ids = make_pictures(20)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words, fail=["0003"])
    omnicap.run(*words, "--retry-failed", death="compaction begins")
    path = omnicap.folder / "out.jsonl"
    content = path.read_bytes()
    assert len(content) > 5_000
    again = omnicap.run(*words, preexec=largest_file(5_000))
    assert (again.returncode, path.read_bytes()) == (0, content)  # nothing is wrong but its size
    assert "Traceback" not in again.stderr
    assert not partial_files(omnicap.folder)
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


def test_no_room_for_the_newline_that_a_crash_took(omnicap, make_pictures):
    ids = make_pictures(20)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words, "--limit", "10")
    path = omnicap.folder / "out.jsonl"
    content = path.read_bytes()[:-1]
    path.write_bytes(content)
    assert_fails(omnicap.run(*words, preexec=largest_file(len(content))), "can't write", "out.jsonl")
    assert path.read_bytes() == content
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount")
def test_a_full_file_system(omnicap, make_pictures, small_disk):
    ids = make_pictures(100)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 20_000)
    words = ("in", "-o", "disk/out.jsonl")
    full = omnicap.run(*words)
    assert_fails(full, "can't write", "out.jsonl", "No space left on device")
    records = omnicap.records("disk/out.jsonl")
    assert 0 < len(records) < 100
    assert_right(omnicap, records)
    still_full = omnicap.run(*words)  # not even the note finds room, or the journal none for one more
    assert_fails(still_full, "can't write", "No space left on device")
    assert omnicap.records("disk/out.jsonl")[: len(records)] == records
    filler.unlink()
    small_disk_grows = subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], capture_output=True)
    assert small_disk_grows.returncode == 0
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids, name="disk/out.jsonl")
    assert not partial_files(small_disk)


# -------------------------------------------------------------------------------------------- permissions


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "closed"
    folder.mkdir()
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("output", ["closed/out.jsonl", "closed/new/out.jsonl"])
def test_a_folder_that_is_read_only(omnicap, make_pictures, closed_folder, output):
    make_pictures(2)
    closed_folder.chmod(0o555)
    assert_fails(omnicap.run("in", "-o", output, preexec=drop_override), "can't write", "Permission denied", "hint:")
    assert list(closed_folder.iterdir()) == []
    assert not omnicap.begun


def test_a_journal_in_a_folder_that_became_read_only(omnicap, make_pictures, closed_folder):
    make_pictures(2)
    assert omnicap.run("in", "-o", "closed/out.jsonl", "--limit", "1").returncode == 0
    content = (closed_folder / "out.jsonl").read_bytes()
    closed_folder.chmod(0o555)
    assert_fails(omnicap.run("in", "-o", "closed/out.jsonl", preexec=drop_override), "can't write", "Permission denied")
    assert (closed_folder / "out.jsonl").read_bytes() == content


def test_a_journal_that_is_read_only(omnicap, make_pictures):
    make_pictures(2)
    omnicap.run("in", "-o", "out.jsonl", "--limit", "1")
    path = omnicap.folder / "out.jsonl"
    content = path.read_bytes()
    path.chmod(0o444)
    assert_fails(omnicap.run("in", "-o", "out.jsonl", preexec=drop_override), "can't write", "Permission denied")
    assert path.read_bytes() == content


def test_a_picture_that_may_not_be_read_is_an_error_of_its_own(omnicap, make_pictures):
    ids = make_pictures(3)
    (omnicap.folder / ids[1]).chmod(0)
    assert omnicap.run("in", "-o", "out.jsonl", preexec=drop_override).returncode == 3
    assert [record["status"] for record in omnicap.records()] == ["ok", "error", "ok"]
    assert omnicap.records()[1]["error"]["kind"] == "AccessError"
