"""Runs that are killed, given damaged journals or started twice: one right record per request in the end.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time

import pytest
from support.caption_runs import assert_complete, assert_fails, assert_right, partial_files, wait_for_end
from support.fake_engine import LOG_LINE_BYTES
from support.fake_omnicap import COMPACTION_DEATHS

from omnicap_cli.core.prompts.catalogue import Catalogue

EVERYTHING = ("--type", "aigc", "--style", "all", "--lang", "all")
ALL_PROMPTS = Catalogue.load().select("aigc", ["all"], "all")


# ------------------------------------------------------------------------------------------------- SIGKILL


def test_killed_at_many_moments(omnicap, make_pictures):
    ids = make_pictures(120)  # 960 requests: more than all the kills together let through
    words = ("in", *EVERYTHING, "-o", "out.jsonl")
    moments = random.Random(20)
    num_kills = 22
    for number in range(num_kills):
        process = omnicap.start(*words, seconds=0.004)
        if number % 4 == 3:  # while it starts, plans or works
            time.sleep(moments.uniform(0, 0.5))
        else:  # somewhere in the work
            log_bytes = (len(omnicap.begun) + moments.randint(1, 20)) * LOG_LINE_BYTES
            omnicap.wait_for(
                process, lambda size=log_bytes: omnicap.log.exists() and omnicap.log.stat().st_size >= size
            )
            time.sleep(moments.uniform(0, 0.003))
        process.kill()
        process.wait()
        with contextlib.suppress(FileNotFoundError):
            assert_right(omnicap, omnicap.records(), ALL_PROMPTS)
    assert len(omnicap.records()) < len(ids) * len(ALL_PROMPTS)  # or the kills came too late to prove anything
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids, ALL_PROMPTS)
    assert len(omnicap.begun) <= len(ids) * len(ALL_PROMPTS) + num_kills  # each cost what was on the engine, no more


def test_killed_within_batches(omnicap, make_pictures):
    """The engine had answered several, out of order, and not all of them were on record."""
    ids = make_pictures(30)
    words = ("in", *EVERYTHING, "-o", "out.jsonl")
    for num_results in (0, 1, 7, 8, 20):
        process = omnicap.run(*words, batch_size=8, order="shuffled", die_after=num_results)
        assert process.returncode == -signal.SIGKILL
    assert len(omnicap.records()) == 0 + 1 + 7 + 8 + 20
    assert omnicap.run(*words, batch_size=8, order="shuffled").returncode == 0
    assert_complete(omnicap, ids, ALL_PROMPTS)


def test_killed_while_compacting(omnicap, make_pictures):
    ids = make_pictures(12)
    words = ("in", "-o", "out.jsonl")
    assert omnicap.run(*words, fail=["3", "5", "7"]).returncode == 3
    deaths = iter(COMPACTION_DEATHS)
    killed = omnicap.run(*words, "--retry-failed", death=next(deaths))
    assert killed.returncode == -signal.SIGKILL
    assert len(omnicap.records()) == 12 + 3  # the errors are still there
    for death in deaths:
        assert omnicap.run(*words, death=death).returncode == -signal.SIGKILL
        newest = {record["key"]: record for record in omnicap.records()}
        assert len(newest) == 12
        assert_right(omnicap, list(newest.values()))
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == 12 + 3


def test_a_killed_compaction_leaves_nothing_behind_for_ever(omnicap, make_pictures):
    make_pictures(5)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words, fail=["3"])
    for _ in range(2):
        omnicap.run(*words, "--retry-failed", death="compaction writes")
    assert omnicap.run(*words).returncode == 0
    assert not partial_files(omnicap.folder)


# --------------------------------------------------------------------------------------- damaged journals


def torn(content: bytes) -> bytes:
    return content[:-25]


def without_newline(content: bytes) -> bytes:
    return content[:-1]


def broken_in_the_middle(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:2], lines[2][:40] + b"\n", *lines[3:]])


def zeros_in_the_middle(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:2], b"\0" * len(lines[2]), *lines[3:]])  # its newline is gone, so the next is lost too


def zeros_at_the_end(content: bytes) -> bytes:
    return content + b"\0" * 1000


@pytest.mark.parametrize(
    ("damage", "num_lost", "num_broken"),
    [
        (torn, 1, 0),
        (without_newline, 0, 0),
        (broken_in_the_middle, 1, 1),
        (zeros_in_the_middle, 2, 1),
        (zeros_at_the_end, 0, 0),
    ],
)
def test_a_damaged_journal_is_completed(omnicap, make_pictures, damage, num_lost, num_broken):
    ids = make_pictures(6)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words)
    path = omnicap.folder / "out.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    again = omnicap.run(*words)
    assert again.returncode == 0
    assert ("lines that are no records" in again.stderr) == bool(num_broken)
    assert len(omnicap.begun) == 6 + num_lost
    lines = path.read_bytes().splitlines()
    sound = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    assert len(lines) - len(sound) == num_broken
    path.write_bytes(b"".join(line + b"\n" for line in sound))
    assert_complete(omnicap, ids)


def test_an_empty_file_becomes_a_journal(omnicap, make_pictures):
    ids = make_pictures(2)
    (omnicap.folder / "out.jsonl").touch()
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


@pytest.mark.parametrize("content", [b"Dear diary,\n", b'{"a": 1}\n', b'{"image": "a.png"}', b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_journal_is_refused(omnicap, make_pictures, content):
    make_pictures(1)
    path = omnicap.folder / "out.jsonl"
    path.write_bytes(content)
    assert_fails(omnicap.run("in", "-o", "out.jsonl"), "left alone", "--overwrite")
    assert path.read_bytes() == content
    assert not omnicap.begun
    assert omnicap.run("in", "-o", "out.jsonl", "--overwrite").returncode == 0
    assert_complete(omnicap, ["in/0000.png"])


# -------------------------------------------------------------------------------------------- two processes


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_second_process_is_refused(omnicap, make_pictures, more):
    ids = make_pictures(15)
    first = omnicap.start("in", "-o", "out.jsonl", seconds=0.2)
    omnicap.wait_for(first, lambda: len(omnicap.begun) > 1)
    note = (omnicap.folder / "out.jsonl.meta.json").read_bytes()
    second = omnicap.run("in", "-o", "out.jsonl", *more)
    assert_fails(second, "another omnicap process", "out.jsonl")
    assert (omnicap.folder / "out.jsonl.meta.json").read_bytes() == note
    assert first.poll() is None
    assert wait_for_end(first).returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == 15
