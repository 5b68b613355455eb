"""Captions that come through pipes: each as soon as it is there, in order, to readers that may stop or be full.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from support.caption_runs import PATIENCE_SECONDS, assert_complete, assert_fails, ids_of, wait_for_end


def test_a_slow_pipe_sees_its_results(omnicap, make_pictures):
    ids = make_pictures(6)
    process = omnicap.start("-", stdin=subprocess.PIPE, batch_size=4, order="reversed")
    shown = []
    for group in (ids[:1], ids[1:3]):  # less than a batch each time
        process.stdin.write("".join(f"{item_id}\n" for item_id in group).encode())
        process.stdin.flush()
        shown += [json.loads(process.stdout.readline())["id"] for _ in group]
        assert process.poll() is None
    rest, _ = process.communicate("".join(f"{item_id}\n" for item_id in ids[3:]).encode(), timeout=PATIENCE_SECONDS)
    assert shown + ids_of(rest.decode()) == ids
    assert process.returncode == 0


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_stdout_has_the_order_of_the_inputs(omnicap, make_pictures, order):
    ids = make_pictures(30)
    ended = omnicap.run("in", batch_size=7, order=order, fail=["0011"])
    assert ended.returncode == 3
    assert ids_of(ended.stdout) == ids


def test_unordered_stdout_has_the_order_of_the_engine(omnicap, make_pictures):
    ids = make_pictures(10)
    ended = omnicap.run("in", "--unordered", batch_size=5, order="reversed")
    assert ids_of(ended.stdout) == ids[4::-1] + ids[:4:-1]


@pytest.mark.parametrize("stays_open", [False, True], ids=["files", "open-pipe"])
def test_a_reader_that_has_had_enough(omnicap, make_pictures, stays_open):
    ids = make_pictures(300)
    words, stdin = (("-",), subprocess.PIPE) if stays_open else (("in",), subprocess.DEVNULL)
    process = omnicap.start(*words, stdin=stdin, seconds=0.01)
    if process.stdin:
        process.stdin.write("".join(f"{item_id}\n" for item_id in ids).encode())
        process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == ids[0]
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 40)  # by now it waits for more of the pipe
    process.stdout.close()
    process.wait(timeout=PATIENCE_SECONDS)
    assert (process.returncode, process.stderr.read()) == (0, b"")
    assert len(omnicap.begun) < 300


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_stdout_on_a_full_disk(omnicap, make_pictures):
    make_pictures(3)
    with open("/dev/full", "wb") as full:
        ended = wait_for_end(omnicap.start("in", stdout=full))
    assert_fails(ended, "can't write the standard output: No space left on device")


def test_nothing_given(omnicap):
    (omnicap.folder / "in").mkdir()
    for words in (("in",), ("-",), ("in", "-o", "out.jsonl")):
        ended = omnicap.run(*words)
        assert (ended.returncode, ended.stdout) == (0, "")
        assert "no pictures" in ended.stderr
    assert omnicap.records() == []


def test_quiet(omnicap, make_pictures):
    make_pictures(3)
    ended = omnicap.run("in", "-q", fail=["0001"])
    assert (ended.returncode, ended.stderr) == (3, "")
    assert len(ended.stdout.splitlines()) == 3
    ended = omnicap.run("in", "-q", "-o", "out.jsonl")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert "the weights" in omnicap.run("in", "-q", load_error="the weights are not there").stderr


@pytest.mark.parametrize("descriptor", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_started_with_a_closed_stream(omnicap, make_pictures, descriptor):
    """As some services and cron jobs do; none of the three is needed to fill a journal."""
    ids = make_pictures(2)
    ended = wait_for_end(omnicap.start("in", "-o", "out.jsonl", preexec=lambda: os.close(descriptor)))
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert_complete(omnicap, ids)


def test_nothing_stays_behind(omnicap, make_pictures):
    make_pictures(3)
    omnicap.run("in", "-o", "out.jsonl")
    assert {path.name for path in omnicap.folder.iterdir()} == {
        *("in", "begun.log", "out.jsonl", "out.jsonl.lock", "out.jsonl.meta.json")
    }
