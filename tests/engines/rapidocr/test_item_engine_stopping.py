"""A pool of processes waits for slow sources, stops when told to and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from support.item_pools import PATIENCE_SECONDS, children, pool_of, request_for, run_pool, shouted_answers, wait_until
from support.item_pools import earlier_children as earlier_children  # a fixture
from support.item_pools import findable_worker as findable_worker  # a fixture
from support.item_pools import picture as picture  # a fixture

from omnicap_cli.core.runs.records import Idle
from omnicap_cli.engines.rapidocr.item_engine import ItemEngine

# --- a slow source


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("with_idle", [False, True])
def test_a_result_comes_before_the_next_request(picture, num_workers, with_idle):
    seen = threading.Semaphore(0)
    names = ["a", "b", "c"]

    def source():
        for name in names:
            yield request_for(name, picture)
            if with_idle:
                yield Idle.IDLE
            assert seen.acquire(timeout=PATIENCE_SECONDS), "the result was held back until the next request"

    found = {}
    with pool_of(num_workers) as pool:
        for result in pool.run(source(), threading.Event()):
            found[result.key] = result.text
            seen.release()
    assert found == shouted_answers(names)


def test_requests_are_pulled_with_a_bounded_look_ahead(picture):
    pulled = 0

    def source():
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield request_for(f"sleep {number}", picture)

    stop = threading.Event()
    with pool_of(1, sleep=0.2) as pool:
        for _ in pool.run(source(), stop):
            stop.set()
    assert pulled < 20


# --- stopping


@pytest.mark.parametrize("num_workers", [1, 2])
def test_stop_finishes_what_is_in_hand_and_ends(picture, num_workers):
    stop, started = threading.Event(), []

    def source():
        for number in range(1000):
            started.append(f"item {number}")
            yield request_for(started[-1], picture)

    found = {}
    with pool_of(num_workers) as pool:
        for result in pool.run(source(), stop):
            found[result.key] = result.text
            if len(found) == 5:
                stop.set()
        assert found.items() <= shouted_answers(started).items()
        assert 5 <= len(found) <= 5 + 2 * num_workers + 2 * num_workers  # seen, waiting to be seen, and in hand


def test_stop_before_the_first_request(picture):
    stop = threading.Event()
    stop.set()
    with pool_of(2) as pool:
        assert run_pool(pool, ["a", "b"], picture, stop) == {}


def test_stop_ends_a_run_whose_source_never_ends(picture):
    stop = threading.Event()

    def source():
        yield request_for("a", picture)
        while not stop.is_set():
            time.sleep(0.05)
            yield Idle.IDLE

    found = {}
    with pool_of(1) as pool:
        for result in pool.run(source(), stop):
            found[result.key] = result.text
            stop.set()
    assert found == shouted_answers(["a"])


def test_a_run_after_a_stopped_one_gives_only_its_own_results(picture):
    stop = threading.Event()
    with pool_of(1, sleep=0.2) as pool:
        for _ in pool.run((request_for(f"sleep {number}", picture) for number in range(50)), stop):
            stop.set()
        assert run_pool(pool, ["b"], picture) == shouted_answers(["b"])


def test_close_while_working_leaves_no_process(picture):
    pool = ItemEngine("pool_worker:Shouter", {"sleep": 300}, num_workers=2)
    results = pool.run((request_for(name, picture) for name in ("a", "b", "sleep 1", "sleep 2")), threading.Event())
    assert {next(results).key, next(results).key} == {"a/text", "b/text"}
    assert children()
    pool.close()
    assert children() == []
    assert list(results) == []


def test_close_twice_and_without_work():
    pool = ItemEngine("pool_worker:Shouter", {}, num_workers=2)
    pool.warm_up()
    pool.close()
    pool.close()
    pool.kill()
    assert children() == []


def test_kill_ends_a_run_from_another_thread(picture):
    pool = ItemEngine("pool_worker:Shouter", {"sleep": 300}, num_workers=2)
    found, started = [], threading.Event()

    def work():
        for result in pool.run((request_for(f"sleep {number}", picture) for number in range(9)), threading.Event()):
            found.append(result)
        started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: len(children()) == 2)
    pool.kill()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert started.is_set()  # it ended without an exception
    assert found == []
    wait_until(lambda: not children())
    pool.close()


def test_kill_while_loading(picture):
    pool = ItemEngine("pool_worker:Shouter", {}, num_workers=1)
    results = pool.run((request_for(str(number), picture) for number in range(100)), threading.Event())
    threading.Timer(0.1, pool.kill).start()
    for result in results:
        assert result.error is None
    pool.close()
    assert children() == []


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_process_that_starts_while_the_pool_ends_is_ended_too(picture, monkeypatch, end):
    starting, start_process = threading.Event(), subprocess.Popen

    def start_slowly(*arguments, **options):
        starting.set()
        time.sleep(0.5)
        return start_process(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start_slowly)
    pool = ItemEngine("pool_worker:Shouter", {"sleep": 300}, num_workers=1)
    results = pool.run((request_for(name, picture) for name in ("a", "sleep")), threading.Event())
    thread = threading.Thread(target=lambda: list(results), daemon=True)
    thread.start()
    assert starting.wait(PATIENCE_SECONDS)
    getattr(pool, end)()
    thread.join(PATIENCE_SECONDS)
    left = children()
    pool.close()
    assert left == []


def test_an_abandoned_run_leaves_no_process(picture):
    pool = ItemEngine("pool_worker:Shouter", {"sleep": 0.1}, num_workers=2)
    results = pool.run((request_for(f"sleep {number}", picture) for number in range(1000)), threading.Event())
    next(results)
    results.close()
    pool.close()
    wait_until(lambda: not children())


# --- the terminal and signals


def test_nothing_that_a_worker_prints_reaches_the_terminal(picture, capfd):
    with pool_of(2) as pool:
        run_pool(pool, ["a", "b", "fail", "kill"], picture)
    assert capfd.readouterr() == ("", "")


DRIVER = """
import signal, sys, threading
from omnicap_cli.core.runs.records import Item, MediaRef, Prompt, Request, Settings
from omnicap_cli.engines.rapidocr.item_engine import ItemEngine

signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
picture, log, num_items, sleep = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
prompt = Prompt(type="ocr", style="text", lang="en", system="", user="")

def requests():
    for number in range(num_items):
        item = Item(id=f"sleep {number}", image="", visuals=(MediaRef(path=picture),), fingerprint="")
        yield Request(key=item.id, item=item, prompt=prompt, settings=Settings())

pool = ItemEngine("pool_worker:Shouter", {"log": log, "sleep": sleep}, num_workers=2)
for result in pool.run(requests(), threading.Event()):
    print("result", result.key if result.error is None else result.error.kind, flush=True)
pool.close()
"""


@contextlib.contextmanager
def driver(picture, log, *, num_items, sleep):
    """A process in a group of its own that runs a pool."""
    command = [sys.executable, "-c", DRIVER, picture, str(log), str(num_items), str(sleep)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def workers_in(log):
    pids = [int(path.name.removeprefix("pid-")) for path in log.glob("pid-*")]
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_ctrl_c_doesnt_reach_the_workers(picture, tmp_path):
    with driver(picture, tmp_path, num_items=6, sleep=0.3) as process:
        wait_until(lambda: len(workers_in(tmp_path)) == 2)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
    assert sorted(output.splitlines()) == ["interrupted", *(f"result sleep {number}" for number in range(6))]
    assert len(list(tmp_path.glob("pid-*"))) == 2  # none had to be started again


@pytest.mark.parametrize("sleep", [0.01, 1.5])
def test_workers_end_when_their_parent_is_killed(picture, tmp_path, sleep):
    with driver(picture, tmp_path, num_items=10_000, sleep=sleep) as process:
        wait_until(lambda: len(workers_in(tmp_path)) == 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not workers_in(tmp_path))
