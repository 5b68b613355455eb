"""A pool of processes gives one result for each request, whatever its processes do, and leaves none behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from PIL import Image

from omnicap_cli.core.runs.records import Idle, Item, MediaRef, Prompt, Request, Settings
from omnicap_cli.engines.rapidocr.item_engine import ItemEngine
from omnicap_cli.errors import EngineError, NotFoundError, UnsupportedError

SUPPORT = Path(__file__).parents[2] / "support"
SECONDS = 60  # for what must happen at all; nothing is measured


@pytest.fixture(autouse=True)
def findable_worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.delenv("OMNICAP_DEBUG", raising=False)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "a.png"
    Image.new("RGB", (3, 2)).save(path)
    return str(path)


@contextlib.contextmanager
def pool_of(num_workers, target="Shouter", **config):
    pool = ItemEngine(f"pool_worker:{target}", config, num_workers=num_workers)
    try:
        yield pool
    finally:
        pool.close()
        left = children()
    assert left == []


@pytest.fixture(autouse=True)
def earlier_children():
    """The processes that an earlier test left, which are its failure and not that of others."""
    _earlier[:] = []
    _earlier[:] = children()


_earlier = []


def children():
    """The pool's processes that are still there, zombies not counted."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and "omnicap_cli.core.workers.pool_child" in command:
                found.append(process.pid)
    return [pid for pid in found if pid not in _earlier]


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def request(name, path, style="text", num_following=0, error=None):
    prompt = Prompt(type="ocr", style=style, lang="en", system="", user="")
    item = Item(id=name, image=name, visuals=(MediaRef(path=path),), fingerprint="", error=error)
    key = f"{name}/{style}"
    return Request(key=key, item=item, prompt=prompt, settings=Settings(), num_following=num_following)


def answers(results):
    """key -> text or kind of error; each key once."""
    results = list(results)
    found = {result.key: result.error.kind if result.error else result.text for result in results}
    assert len(found) == len(results)
    return found


def run(pool, names, path, stop=None):
    return answers(pool.run((request(name, path) for name in names), stop or threading.Event()))


def shouted(names):
    return {f"{name}/text": f"{name.upper()}|text|3x2" for name in names}


# --- one result for each request


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_one_result_for_each_request(picture, num_workers):
    names = [f"item {number}" for number in range(25)]
    with pool_of(num_workers) as pool:
        assert run(pool, names, picture) == shouted(names)


def test_no_requests_start_no_process(picture):
    with pool_of(2) as pool:
        assert run(pool, [], picture) == {}
        assert children() == []


def test_several_processes_share_the_work(picture, tmp_path):
    names = [f"sleep {number}" for number in range(8)]
    with pool_of(4, log=str(tmp_path), sleep=0.7) as pool:
        assert run(pool, names, picture) == shouted(names)
    assert len(list(tmp_path.glob("pid-*"))) == 4


def test_one_item_starts_one_process(picture, tmp_path):
    with pool_of(4, log=str(tmp_path)) as pool:
        assert run(pool, ["one"], picture) == shouted(["one"])
    assert len(list(tmp_path.glob("pid-*"))) == 1


def test_warming_up_starts_the_process_that_is_used(picture, tmp_path):
    with pool_of(1, log=str(tmp_path)) as pool:
        pool.warm_up()
        wait_until(lambda: list(tmp_path.glob("pid-*")))
        assert run(pool, ["a", "b"], picture) == shouted(["a", "b"])
    assert len(list(tmp_path.glob("pid-*"))) == 1


def test_all_requests_of_an_item_are_answered(picture):
    styles = ["text", "markdown", "html"]
    requests = [
        request(f"item {number}", picture, style, num_following=2 - place)
        for number in range(5)
        for place, style in enumerate(styles)
    ]
    expected = {each.key: f"{each.item.id.upper()}|{each.prompt.style}|3x2" for each in requests}
    with pool_of(2) as pool:
        assert answers(pool.run(iter(requests), threading.Event())) == expected


@pytest.mark.parametrize("failing", [{"text"}, {"markdown"}, {"text", "markdown"}])
def test_prompts_that_fail_alone_take_no_others_with_them(picture, failing):
    """As when one of an item's prompts asks for a column that the item lacks."""
    requests = [
        request(name, picture, style, num_following, UnsupportedError("no") if style in failing else None)
        for name in ("a", "b", "c")
        for style, num_following in (("text", 1), ("markdown", 0))
    ]
    with pool_of(1) as pool:
        found = answers(pool.run(requests, threading.Event()))
    assert found == {
        f"{name}/{style}": "UnsupportedError" if style in failing else f"{name.upper()}|{style}|3x2"
        for name in ("a", "b", "c")
        for style in ("text", "markdown")
    }


def test_a_second_run_of_the_same_pool(picture):
    with pool_of(2) as pool:
        for names in (["a", "b"], ["c"]):
            assert run(pool, names, picture) == shouted(names)


# --- what is wrong with an item


def test_what_goes_wrong_with_an_item_is_its_result(picture, tmp_path):
    (tmp_path / "text.png").write_text("Dear reader")
    requests = [
        request("first", picture),
        request("fail", picture),
        request("missing", str(tmp_path / "missing.png")),
        request("no picture", str(tmp_path / "text.png")),
        request("refuse", picture),
        request("planned", picture, error=NotFoundError("gone")),
        request("last", picture),
    ]
    with pool_of(1) as pool:
        results = {result.key: result for result in pool.run(iter(requests), threading.Event())}
    kinds = {key: result.error.kind if result.error else result.text for key, result in results.items()}
    assert kinds == {
        "first/text": "FIRST|text|3x2",
        "fail/text": "InferenceError",
        "missing/text": "NotFoundError",
        "no picture/text": "UnsupportedError",
        "refuse/text": "UnsupportedError",
        "planned/text": "NotFoundError",
        "last/text": "LAST|text|3x2",
    }
    assert "the model chokes" in results["fail/text"].error.message
    assert results["planned/text"].error.message == "gone"


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("how", ["kill", "segfault", "exit"])
def test_a_crash_costs_one_item(picture, num_workers, how):
    names = [f"item {number}" for number in range(8)]
    names[3] = f"item 3 {how}"
    with pool_of(num_workers) as pool:
        found = run(pool, names, picture)
    assert found == {**shouted(names), f"item 3 {how}/text": "WorkerCrashedError"}


@pytest.mark.parametrize("place", [0, -1])
def test_a_crash_at_either_end(picture, place):
    names = [f"item {number}" for number in range(4)]
    names[place] = "kill"
    with pool_of(2) as pool:
        assert run(pool, names, picture) == {**shouted(names), "kill/text": "WorkerCrashedError"}


def test_many_crashes(picture):
    names = [f"{'kill' if number % 3 == 1 else 'item'} {number}" for number in range(9)]
    with pool_of(2) as pool:
        found = run(pool, names, picture)
    assert Counter(found.values())["WorkerCrashedError"] == 3
    assert found == {**shouted(names), **{f"kill {n}/text": "WorkerCrashedError" for n in (1, 4, 7)}}


def test_only_crashes(picture):
    names = ["kill 1", "segfault 2", "exit 3"]
    with pool_of(2) as pool:
        assert set(run(pool, names, picture).values()) == {"WorkerCrashedError"}


def test_a_process_that_dies_once_costs_nothing(picture, tmp_path):
    names = ["item 1", "flaky", "item 2", "item 3"]
    with pool_of(1, log=str(tmp_path)) as pool:
        assert run(pool, names, picture) == shouted(names)
    assert (tmp_path / "crashed-once").exists()


def test_a_crash_is_told_in_words(picture):
    with pool_of(1) as pool:
        messages = {
            result.key: result.error.message
            for result in pool.run(map(request, ["kill", "segfault", "exit"], [picture] * 3), threading.Event())
        }
    assert "memory" in messages["kill/text"]  # SIGKILL is what the kernel sends when there is none left
    assert str(int(signal.SIGSEGV)) in messages["segfault/text"]
    assert "3" in messages["exit/text"]
    assert all("crashed the process" in message for message in messages.values())


def test_a_crash_costs_all_requests_of_its_item(picture):
    requests = [
        request(name, picture, style, num_following=1 - place)
        for name in ("one", "kill", "two")
        for place, style in enumerate(["text", "markdown"])
    ]
    with pool_of(1) as pool:
        found = answers(pool.run(iter(requests), threading.Event()))
    assert {key for key, text in found.items() if text == "WorkerCrashedError"} == {"kill/text", "kill/markdown"}
    assert len(found) == 6


# --- what is wrong with the engine


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("engine", "weights are of another model"),
        ("value", "ValueError: bad weights"),
        ("exit", "while it loaded the model .*7"),
        ("kill", "while it loaded the model"),
        ("segfault", "while it loaded the model .*11"),
        ("system exit", "load"),
    ],
)
def test_a_model_that_doesnt_load_is_an_engine_error(picture, num_workers, how, words):
    pool = ItemEngine("pool_worker:Unloadable", how, num_workers=num_workers)
    with contextlib.closing(pool), pytest.raises(EngineError, match=words):
        run(pool, ["a", "b", "c"], picture)
    assert children() == []


@pytest.mark.parametrize("target", ["pool_worker:Nobody", "no_such_module:Nobody", "pool_worker"])
def test_a_worker_class_that_isnt_there_is_an_engine_error(picture, target):
    pool = ItemEngine(target, None, num_workers=1)
    with contextlib.closing(pool), pytest.raises(EngineError, match="load"):
        run(pool, ["a"], picture)


def test_the_hint_of_an_engine_error_arrives(picture):
    pool = ItemEngine("pool_worker:Unloadable", "engine", num_workers=1)
    with contextlib.closing(pool), pytest.raises(EngineError) as caught:
        run(pool, ["a"], picture)
    assert caught.value.hint == "Take others."


def test_what_the_source_raises_is_raised(picture):
    def source():
        yield request("a", picture)
        raise ZeroDivisionError("from the source")

    with pool_of(1) as pool, pytest.raises(ZeroDivisionError, match="from the source"):
        list(pool.run(source(), threading.Event()))


# --- a slow source


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("with_idle", [False, True])
def test_a_result_comes_before_the_next_request(picture, num_workers, with_idle):
    seen = threading.Semaphore(0)
    names = ["a", "b", "c"]

    def source():
        for name in names:
            yield request(name, picture)
            if with_idle:
                yield Idle.IDLE
            assert seen.acquire(timeout=SECONDS), "the result was held back until the next request"

    found = {}
    with pool_of(num_workers) as pool:
        for result in pool.run(source(), threading.Event()):
            found[result.key] = result.text
            seen.release()
    assert found == shouted(names)


def test_requests_are_pulled_with_a_bounded_look_ahead(picture):
    pulled = 0

    def source():
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield request(f"sleep {number}", picture)

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
            yield request(started[-1], picture)

    found = {}
    with pool_of(num_workers) as pool:
        for result in pool.run(source(), stop):
            found[result.key] = result.text
            if len(found) == 5:
                stop.set()
        assert found.items() <= shouted(started).items()
        assert 5 <= len(found) <= 5 + 2 * num_workers + 2 * num_workers  # seen, waiting to be seen, and in hand


def test_stop_before_the_first_request(picture):
    stop = threading.Event()
    stop.set()
    with pool_of(2) as pool:
        assert run(pool, ["a", "b"], picture, stop) == {}


def test_stop_ends_a_run_whose_source_never_ends(picture):
    stop = threading.Event()

    def source():
        yield request("a", picture)
        while not stop.is_set():
            time.sleep(0.05)
            yield Idle.IDLE

    found = {}
    with pool_of(1) as pool:
        for result in pool.run(source(), stop):
            found[result.key] = result.text
            stop.set()
    assert found == shouted(["a"])


def test_a_run_after_a_stopped_one_gives_only_its_own_results(picture):
    stop = threading.Event()
    with pool_of(1, sleep=0.2) as pool:
        for _ in pool.run((request(f"sleep {number}", picture) for number in range(50)), stop):
            stop.set()
        assert run(pool, ["b"], picture) == shouted(["b"])


def test_close_while_working_leaves_no_process(picture):
    pool = ItemEngine("pool_worker:Shouter", {"sleep": 300}, num_workers=2)
    results = pool.run((request(name, picture) for name in ("a", "b", "sleep 1", "sleep 2")), threading.Event())
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
        for result in pool.run((request(f"sleep {number}", picture) for number in range(9)), threading.Event()):
            found.append(result)
        started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: len(children()) == 2)
    pool.kill()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert started.is_set()  # it ended without an exception
    assert found == []
    wait_until(lambda: not children())
    pool.close()


def test_kill_while_loading(picture):
    pool = ItemEngine("pool_worker:Shouter", {}, num_workers=1)
    results = pool.run((request(str(number), picture) for number in range(100)), threading.Event())
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
    results = pool.run((request(name, picture) for name in ("a", "sleep")), threading.Event())
    thread = threading.Thread(target=lambda: list(results), daemon=True)
    thread.start()
    assert starting.wait(SECONDS)
    getattr(pool, end)()
    thread.join(SECONDS)
    left = children()
    pool.close()
    assert left == []


def test_an_abandoned_run_leaves_no_process(picture):
    pool = ItemEngine("pool_worker:Shouter", {"sleep": 0.1}, num_workers=2)
    results = pool.run((request(f"sleep {number}", picture) for number in range(1000)), threading.Event())
    next(results)
    results.close()
    pool.close()
    wait_until(lambda: not children())


# --- the terminal and signals


def test_nothing_that_a_worker_prints_reaches_the_terminal(picture, capfd):
    with pool_of(2) as pool:
        run(pool, ["a", "b", "fail", "kill"], picture)
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
        output, _ = process.communicate(timeout=SECONDS)
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
