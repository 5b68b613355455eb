"""A pool of processes gives one result for each request, whatever is wrong with items, processes or the engine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter

import pytest
from support.item_pools import answers_of, children, pool_of, request_for, run_pool, shouted_answers, wait_until
from support.item_pools import earlier_children as earlier_children  # a fixture
from support.item_pools import findable_worker as findable_worker  # a fixture
from support.item_pools import picture as picture  # a fixture

from omnicap_cli.engines.rapidocr.item_engine import ItemEngine
from omnicap_cli.errors import EngineError, NotFoundError, UnsupportedError

# --- one result for each request


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_one_result_for_each_request(picture, num_workers):
    names = [f"item {number}" for number in range(25)]
    with pool_of(num_workers) as pool:
        assert run_pool(pool, names, picture) == shouted_answers(names)


def test_no_requests_start_no_process(picture):
    with pool_of(2) as pool:
        assert run_pool(pool, [], picture) == {}
        assert children() == []


def test_several_processes_share_the_work(picture, tmp_path):
    names = [f"sleep {number}" for number in range(8)]
    with pool_of(4, log=str(tmp_path), sleep=0.7) as pool:
        assert run_pool(pool, names, picture) == shouted_answers(names)
    assert len(list(tmp_path.glob("pid-*"))) == 4


def test_one_item_starts_one_process(picture, tmp_path):
    with pool_of(4, log=str(tmp_path)) as pool:
        assert run_pool(pool, ["one"], picture) == shouted_answers(["one"])
    assert len(list(tmp_path.glob("pid-*"))) == 1


def test_warming_up_starts_the_process_that_is_used(picture, tmp_path):
    with pool_of(1, log=str(tmp_path)) as pool:
        pool.warm_up()
        wait_until(lambda: list(tmp_path.glob("pid-*")))
        assert run_pool(pool, ["a", "b"], picture) == shouted_answers(["a", "b"])
    assert len(list(tmp_path.glob("pid-*"))) == 1


def test_all_requests_of_an_item_are_answered(picture):
    styles = ["text", "markdown", "html"]
    requests = [
        request_for(f"item {number}", picture, style, num_following=2 - place)
        for number in range(5)
        for place, style in enumerate(styles)
    ]
    expected = {each.key: f"{each.item.id.upper()}|{each.prompt.style}|3x2" for each in requests}
    with pool_of(2) as pool:
        assert answers_of(pool.run(iter(requests), threading.Event())) == expected


@pytest.mark.parametrize("failing", [{"text"}, {"markdown"}, {"text", "markdown"}])
def test_prompts_that_fail_alone_take_no_others_with_them(picture, failing):
    """As when one of an item's prompts asks for a column that the item lacks."""
    requests = [
        request_for(name, picture, style, num_following, UnsupportedError("no") if style in failing else None)
        for name in ("a", "b", "c")
        for style, num_following in (("text", 1), ("markdown", 0))
    ]
    with pool_of(1) as pool:
        found = answers_of(pool.run(requests, threading.Event()))
    assert found == {
        f"{name}/{style}": "UnsupportedError" if style in failing else f"{name.upper()}|{style}|3x2"
        for name in ("a", "b", "c")
        for style in ("text", "markdown")
    }


def test_a_second_run_of_the_same_pool(picture):
    with pool_of(2) as pool:
        for names in (["a", "b"], ["c"]):
            assert run_pool(pool, names, picture) == shouted_answers(names)


# --- what is wrong with an item


def test_what_goes_wrong_with_an_item_is_its_result(picture, tmp_path):
    (tmp_path / "text.png").write_text("Dear reader")
    requests = [
        request_for("first", picture),
        request_for("fail", picture),
        request_for("missing", str(tmp_path / "missing.png")),
        request_for("no picture", str(tmp_path / "text.png")),
        request_for("refuse", picture),
        request_for("planned", picture, error=NotFoundError("gone")),
        request_for("last", picture),
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
        found = run_pool(pool, names, picture)
    assert found == {**shouted_answers(names), f"item 3 {how}/text": "WorkerCrashedError"}


@pytest.mark.parametrize("place", [0, -1])
def test_a_crash_at_either_end(picture, place):
    names = [f"item {number}" for number in range(4)]
    names[place] = "kill"
    with pool_of(2) as pool:
        assert run_pool(pool, names, picture) == {**shouted_answers(names), "kill/text": "WorkerCrashedError"}


def test_many_crashes(picture):
    names = [f"{'kill' if number % 3 == 1 else 'item'} {number}" for number in range(9)]
    with pool_of(2) as pool:
        found = run_pool(pool, names, picture)
    assert Counter(found.values())["WorkerCrashedError"] == 3
    assert found == {**shouted_answers(names), **{f"kill {n}/text": "WorkerCrashedError" for n in (1, 4, 7)}}


def test_only_crashes(picture):
    names = ["kill 1", "segfault 2", "exit 3"]
    with pool_of(2) as pool:
        assert set(run_pool(pool, names, picture).values()) == {"WorkerCrashedError"}


def test_a_process_that_dies_once_costs_nothing(picture, tmp_path):
    names = ["item 1", "flaky", "item 2", "item 3"]
    with pool_of(1, log=str(tmp_path)) as pool:
        assert run_pool(pool, names, picture) == shouted_answers(names)
    assert (tmp_path / "crashed-once").exists()


def test_a_crash_is_told_in_words(picture):
    with pool_of(1) as pool:
        messages = {
            result.key: result.error.message
            for result in pool.run(map(request_for, ["kill", "segfault", "exit"], [picture] * 3), threading.Event())
        }
    assert "memory" in messages["kill/text"]  # SIGKILL is what the kernel sends when there is none left
    assert str(int(signal.SIGSEGV)) in messages["segfault/text"]
    assert "3" in messages["exit/text"]
    assert all("crashed the process" in message for message in messages.values())


def test_a_crash_costs_all_requests_of_its_item(picture):
    requests = [
        request_for(name, picture, style, num_following=1 - place)
        for name in ("one", "kill", "two")
        for place, style in enumerate(["text", "markdown"])
    ]
    with pool_of(1) as pool:
        found = answers_of(pool.run(iter(requests), threading.Event()))
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
        run_pool(pool, ["a", "b", "c"], picture)
    assert children() == []


@pytest.mark.parametrize("target", ["pool_worker:Nobody", "no_such_module:Nobody", "pool_worker"])
def test_a_worker_class_that_isnt_there_is_an_engine_error(picture, target):
    pool = ItemEngine(target, None, num_workers=1)
    with contextlib.closing(pool), pytest.raises(EngineError, match="load"):
        run_pool(pool, ["a"], picture)


def test_the_hint_of_an_engine_error_arrives(picture):
    pool = ItemEngine("pool_worker:Unloadable", "engine", num_workers=1)
    with contextlib.closing(pool), pytest.raises(EngineError) as caught:
        run_pool(pool, ["a"], picture)
    assert caught.value.hint == "Take others."


def test_what_the_source_raises_is_raised(picture):
    def source():
        yield request_for("a", picture)
        raise ZeroDivisionError("from the source")

    with pool_of(1) as pool, pytest.raises(ZeroDivisionError, match="from the source"):
        list(pool.run(source(), threading.Event()))
