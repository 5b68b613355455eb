"""Runs that are interrupted or told to stop: what is on the engine is finished, and the next run goes on.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter

import pytest
from support.caption_runs import PATIENCE_SECONDS, assert_complete, assert_fails, assert_right, wait_for_end

from omnicap_cli.terminal.interrupts import ECHO_SECONDS

SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["sigint", "sigterm"]
)


@SIGNALS
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_is_on_the_engine_is_finished(omnicap, make_pictures, number, code, batch_size):
    ids = make_pictures(30)
    words = ("in", "-o", "out.jsonl")
    process = omnicap.start(*words, seconds=0.5, batch_size=batch_size)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > batch_size)  # the second batch is on the engine
    process.send_signal(number)
    ended = wait_for_end(process)
    assert_fails(ended, "stopping", code=code)
    assert [record["key"] for record in omnicap.records()] == omnicap.begun
    assert_right(omnicap, omnicap.records())
    assert len(omnicap.records()) < len(ids)
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == len(ids)


def test_a_signal_that_is_told_twice_counts_once(omnicap, make_pictures):
    """As launchers do it: the terminal tells all processes, and the launcher passes it on besides."""
    make_pictures(4)
    process = omnicap.start("in", "-o", "out.jsonl", seconds=1)
    omnicap.wait_for(process, lambda: len(omnicap.begun) == 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # two of a kind might reach it as one
    assert_fails(wait_for_end(process), "stopping", "run the same command again to go on", code=130)
    assert [record["key"] for record in omnicap.records()] == omnicap.begun


@SIGNALS
def test_the_second_signal_ends_it_at_once(omnicap, make_pictures, number, code):
    ids = make_pictures(4)
    words = ("in", "-o", "out.jsonl")
    assert omnicap.run(*words, "--limit", "1").returncode == 0
    process = omnicap.start(*words, seconds=300)
    omnicap.wait_for(process, lambda: len(omnicap.begun) == 2)
    process.send_signal(number)
    assert b"stopping" in process.stderr.readline()
    assert process.poll() is None  # it waits for what is on the engine
    time.sleep(ECHO_SECONDS)
    process.send_signal(number)
    assert_fails(wait_for_end(process), code=code)
    assert len(omnicap.records()) == 1
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


def test_interrupted_while_a_pipe_is_silent(omnicap, make_pictures):
    """Whoever feeds the pipe keeps it open, so that a thread is still reading when the process ends."""
    (first,) = make_pictures(1)
    process = omnicap.start("-", "-o", "out.jsonl", stdin=subprocess.PIPE)
    process.stdin.write(f"{first}\n".encode())
    process.stdin.flush()
    omnicap.wait_for(process, lambda: (omnicap.folder / "out.jsonl").exists() and omnicap.records())
    process.send_signal(signal.SIGINT)
    process.wait(timeout=PATIENCE_SECONDS)  # with the pipe still open
    ended = subprocess.CompletedProcess(process.args, process.returncode, "", process.stderr.read().decode())
    assert_fails(ended, code=130)
    assert_complete(omnicap, [first])


def test_interrupted_stdout_has_whole_lines(omnicap, make_pictures):
    make_pictures(20)
    process = omnicap.start("in", seconds=0.3, batch_size=4, order="reversed")
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 4)
    process.send_signal(signal.SIGINT)
    ended = wait_for_end(process)
    assert_fails(ended, code=130)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert Counter(record["key"] for record in records) == Counter(omnicap.begun)
    assert [record["id"] for record in records] == sorted(record["id"] for record in records)


def test_an_interrupted_overwrite_says_how_to_go_on(omnicap, make_pictures):
    ids = make_pictures(6)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    process = omnicap.start("in", "-o", "out.jsonl", "--overwrite", seconds=0.5)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 6 + 1)
    process.send_signal(signal.SIGINT)
    ended = wait_for_end(process)
    assert_fails(ended, "again without --overwrite", code=130)
    assert "the same command" not in ended.stderr
    assert 0 < len(omnicap.records()) < 6
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


def test_an_interrupt_leaves_superseded_lines_to_the_next_run(omnicap, make_pictures):
    """Whoever presses Ctrl-C, or shuts the machine down, doesn't want to wait for a journal to be rewritten."""
    ids = make_pictures(6)
    words = ("in", "-o", "out.jsonl")
    assert omnicap.run(*words, fail=["000"]).returncode == 3
    content = (omnicap.folder / "out.jsonl").read_bytes()
    process = omnicap.start(*words, "--retry-failed", seconds=0.5)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 6 + 1)
    process.send_signal(signal.SIGINT)
    assert_fails(wait_for_end(process), code=130)
    assert (omnicap.folder / "out.jsonl").read_bytes().startswith(content)
    num_superseded = len(omnicap.records()) - 6
    assert 1 <= num_superseded < 6
    assert omnicap.run(*words, "--retry-failed").returncode == 0
    assert_complete(omnicap, ids)
    assert [record["attempts"] for record in omnicap.records()] == [2] * 6


def read_all(descriptor: int) -> bytes:
    """What comes out of a terminal until nobody writes to it any more."""
    content = b""
    with contextlib.suppress(OSError):  # EIO: so Linux says that the other side is closed
        while block := os.read(descriptor, 1 << 16):
            content += block
    return content


def test_the_second_interrupt_shows_the_cursor_again(omnicap, make_pictures, monkeypatch):
    """The bar hides it, and has no time to put it back."""
    try:
        terminal, other_side = os.openpty()
    except OSError:
        pytest.skip("there is no pseudo-terminal here")
    monkeypatch.setenv("TERM", "xterm")
    make_pictures(2)
    process = omnicap.start("in", "-o", "out.jsonl", stderr=other_side, seconds=300)
    os.close(other_side)
    omnicap.wait_for(process, lambda: len(omnicap.begun) == 1)
    said = b""
    while b"\x1b[?25l" not in said:
        said += os.read(terminal, 1 << 16)
    process.send_signal(signal.SIGINT)
    while b"stopping" not in said:
        said += os.read(terminal, 1 << 16)
    time.sleep(ECHO_SECONDS)
    process.send_signal(signal.SIGINT)
    said += read_all(terminal)
    os.close(terminal)
    assert process.wait(timeout=PATIENCE_SECONDS) == 130
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
