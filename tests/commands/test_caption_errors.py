"""Errors of items, which become records of their own, and errors of the engine, which end the run.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import subprocess

import pytest
from support.caption_runs import PATIENCE_SECONDS, assert_complete, assert_fails, assert_right, ids_of

# --------------------------------------------------------------------------------------- errors of items


def test_errors_stay_until_they_are_retried(omnicap, make_pictures):
    ids = make_pictures(6)
    words = ("in", "-o", "out.jsonl")
    first = omnicap.run(*words, fail=["0001", "0004"])
    assert first.returncode == 3
    assert first.stderr.count("told to fail") == 2
    keys = {record["id"]: record["key"] for record in omnicap.records()}
    content = (omnicap.folder / "out.jsonl").read_bytes()

    again = omnicap.run(*words)
    assert (again.returncode, len(omnicap.begun)) == (3, 6)
    assert "--retry-failed" in again.stderr
    assert (omnicap.folder / "out.jsonl").read_bytes() == content

    assert omnicap.run(*words, "--retry-failed", fail=["0004"]).returncode == 3
    assert omnicap.begun[6:] == [keys[ids[1]], keys[ids[4]]]
    rest = [ids[0], ids[2], ids[3], ids[5]]
    assert [record["id"] for record in omnicap.records()] == [*rest, ids[1], ids[4]]
    assert [record["attempts"] for record in omnicap.records()] == [1, 1, 1, 1, 2, 2]

    assert omnicap.run(*words, "--retry-failed").returncode == 0
    assert omnicap.begun[8:] == [keys[ids[4]]]
    assert [record["attempts"] for record in omnicap.records()] == [1, 1, 1, 1, 2, 3]
    assert_complete(omnicap, ids)
    assert omnicap.run(*words, "--retry-failed").returncode == 0
    assert len(omnicap.begun) == 9


def test_errors_are_no_captions(omnicap, make_pictures):
    make_pictures(1)
    omnicap.run("in", "missing.png", "-o", "out.jsonl", fail=["0000"])
    for record, kind in zip(omnicap.records(), ("InferenceError", "NotFoundError"), strict=True):
        assert (record["status"], record["caption"], record["error"]["kind"]) == ("error", None, kind)


def test_fail_fast(omnicap, make_pictures):
    make_pictures(40)
    failed = omnicap.run("in", "-o", "out.jsonl", "--fail-fast", fail=["0003", "0009"])
    assert_fails(failed, "--fail-fast", "told to fail")
    assert [record["status"] for record in omnicap.records()] == ["ok", "ok", "ok", "error"]


def test_max_error_rate(omnicap, make_pictures):
    make_pictures(100)
    failing = [f"{number:04}" for number in range(10, 100)]
    assert_fails(omnicap.run("in", "-o", "out.jsonl", "--max-error-rate", "0.6", fail=failing), "--max-error-rate 0.6")
    assert len(omnicap.records()) == 26  # 16 of 26 is more than 0.6, 15 of 25 is not
    under = omnicap.run("in", "-o", "other.jsonl", "--max-error-rate", "0.9", fail=failing)
    assert under.returncode == 3
    assert len(omnicap.records("other.jsonl")) == 100


def test_overwrite(omnicap, make_pictures):
    ids = make_pictures(3)
    omnicap.run("in", "-o", "out.jsonl", "--style", "short")
    assert omnicap.run("in", "-o", "out.jsonl", "--overwrite").returncode == 0
    assert_complete(omnicap, ids)


# ------------------------------------------------------------------------------------- errors of the engine


def test_an_engine_that_does_not_load(omnicap, make_pictures):
    ids = make_pictures(50)
    failed = omnicap.run("in", "-o", "out.jsonl", load_error="the weights are not there")
    assert_fails(failed, "error: the weights are not there")
    assert omnicap.records() == []
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_engine_that_breaks_on_the_way(omnicap, make_pictures, batch_size):
    ids = make_pictures(50)
    words = ("in", "-o", "out.jsonl")
    assert_fails(omnicap.run(*words, error_after=7, batch_size=batch_size), "error: the fake device is gone")
    assert len(omnicap.records()) == 7
    assert_right(omnicap, omnicap.records())
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


def test_what_waits_for_its_turn_is_written_before_an_engine_breaks(omnicap, make_pictures):
    """Of four in a batch the last two are answered; the first two never will be."""
    ids = make_pictures(8)
    ended = omnicap.run("in", batch_size=4, order="reversed", error_after=2)
    assert_fails(ended, "error: the fake device is gone")
    assert ids_of(ended.stdout) == ids[2:4]
    assert ended.stdout.endswith("\n")


def test_an_engine_that_breaks_while_a_pipe_is_open(omnicap, make_pictures):
    ids = make_pictures(3)
    process = omnicap.start("-", "-o", "out.jsonl", stdin=subprocess.PIPE, error_after=1)
    process.stdin.write("".join(f"{item_id}\n" for item_id in ids).encode())
    process.stdin.flush()
    process.wait(timeout=PATIENCE_SECONDS)
    ended = subprocess.CompletedProcess(process.args, process.returncode, "", process.stderr.read().decode())
    assert_fails(ended, "the fake device is gone")
    assert len(omnicap.records()) == 1
