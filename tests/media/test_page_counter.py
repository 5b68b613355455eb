"""Pages are counted in a process of its own, which a file may crash: the next file finds another one."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from support.media_samples import pdf

from omnicap_cli.core.runs.records import MediaRef, Transfer
from omnicap_cli.core.workers import pool
from omnicap_cli.core.workers.child import Child
from omnicap_cli.errors import DecodeError, ItemError, UnsupportedError
from omnicap_cli.media.page_counter import PageCounter


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("two.pdf").write_bytes(pdf((10, 10), (10, 10)))
    return tmp_path


def count(counter, path="two.pdf"):
    return counter.num_pages(MediaRef(path=path, kind="pdf"), Transfer())


def processes():
    return [each for each in psutil.Process().children() if "page_counter" in " ".join(words_of(each))]


def words_of(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def test_pages_are_counted_in_one_other_process():
    before = processes()
    counter = PageCounter()
    assert [count(counter) for _ in range(3)] == [2, 2, 2]
    assert len(processes()) == len(before) + 1


def test_errors_come_back_as_they_are():
    counter = PageCounter()
    Path("text.pdf").write_bytes(b"no pdf")
    with pytest.raises(UnsupportedError, match="not a PDF"):
        count(counter, "text.pdf")
    with pytest.raises(ItemError, match="no such file"):
        count(counter, "gone.pdf")
    assert count(counter) == 2


@pytest.fixture
def crashing(monkeypatch):
    """What counting says while its process crashes so many times, as of a file that PDFium can't bear.

    Each process is stopped as soon as it is there, so that none can answer before it crashes.
    """
    born = queue.SimpleQueue()

    class StoppedChild(Child):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            self._process.send_signal(signal.SIGSTOP)
            born.put(self._process)

    def crash(num_crashes):
        monkeypatch.setattr(pool, "Child", StoppedChild)
        counter, said = PageCounter(), []

        def ask():
            try:
                said.append(count(counter))
            except DecodeError as error:
                said.append(error.message)

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(num_crashes):
            process = born.get(timeout=60)
            process.send_signal(signal.SIGSEGV)
            process.send_signal(signal.SIGCONT)
        if num_crashes == 1:  # another takes its place
            born.get(timeout=60).send_signal(signal.SIGCONT)
        thread.join(60)
        monkeypatch.setattr(pool, "Child", Child)
        assert count(counter) == 2
        return said

    return crash


def test_a_crash_of_something_else_is_tried_again(crashing):
    assert crashing(1) == [2]


def test_a_file_that_crashes_twice_is_an_error_and_the_next_one_is_counted(crashing):
    assert crashing(2) == [f"it crashed the process that counted its pages (signal {signal.SIGSEGV.value})"]


def test_the_folder_may_change_after_the_start(here, monkeypatch):
    counter = PageCounter()
    assert count(counter) == 2
    (here / "other").mkdir()
    monkeypatch.chdir("other")
    Path("three.pdf").write_bytes(pdf(*[(10, 10)] * 3))
    assert count(counter, "three.pdf") == 3
    assert count(counter, "../two.pdf") == 2


def test_the_process_ends_with_its_parent():
    code = (
        "import os, signal; from omnicap_cli.core.runs.records import *;"
        "from omnicap_cli.media.page_counter import PageCounter;"
        "c = PageCounter(); c.num_pages(MediaRef(path='two.pdf'), Transfer());"
        "print(c._pool._places[0].child._process.pid, flush=True);"
        "os.kill(os.getpid(), signal.{})"
    )
    for death in ("SIGKILL", "SIGTERM"):
        run = subprocess.run([sys.executable, "-c", code.format(death)], capture_output=True, text=True)
        deadline = time.monotonic() + 30
        while psutil.pid_exists(int(run.stdout)) and psutil.Process(int(run.stdout)).status() != "zombie":
            assert time.monotonic() < deadline, "it lives on"
            time.sleep(0.02)
