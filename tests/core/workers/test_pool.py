"""A pool answers each task once, whatever its children die of, or says why it can't; it leaves no child behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from omnicap_cli.core.workers.child import ChildDiedError
from omnicap_cli.core.workers.pool import Answered, DeathPolicy, Pool
from omnicap_cli.errors import EngineError, OmnicapError, OptionError

SUPPORT = Path(__file__).parents[2] / "support"
SECONDS = 60  # for what must happen at all; nothing is measured
ALONE = DeathPolicy(tries_alone=True)


def gone(death):
    return OmnicapError(f"gone ({death})", hint="Again.")


ENDS = DeathPolicy(error=gone)


@pytest.fixture(autouse=True)
def findable_targets(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}")
    monkeypatch.syspath_prepend(SUPPORT)


@contextlib.contextmanager
def pool_of(num_children, folder, target="shouter", **options):
    before = children()
    pool = Pool(
        f"pool_targets:load_{target}", str(folder), environments=[{}] * num_children, **({"on_death": ENDS} | options)
    )
    with contextlib.closing(pool):
        yield pool
    assert set(children()) <= set(before)


def children():
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            # of this file's pools: others may be about in the process that runs the tests
            if process.status() != psutil.STATUS_ZOMBIE and "pool_targets" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def loaded(folder):
    """The children that there ever were."""
    return list(Path(folder).glob("loaded-*"))


def shouted(tasks):
    return sorted((task, task.upper()) for task in tasks)


def crashes(answers):
    """The tasks that were given up."""
    return [task for task, answer in answers if isinstance(answer, ChildDiedError)]


# --- answers


@pytest.mark.parametrize(("num_children", "max_in_hand"), [(1, 1), (3, 1), (2, 4), (2, float("inf"))])
def test_each_task_is_answered_once(tmp_path, num_children, max_in_hand):
    tasks = [f"task {number}" for number in range(30)]
    with pool_of(num_children, tmp_path, max_in_hand=max_in_hand) as pool:
        assert sorted(pool.run(tasks)) == shouted(tasks)


def test_no_tasks_start_no_child(tmp_path):
    with pool_of(2, tmp_path) as pool:
        assert list(pool.run([])) == []
    assert not loaded(tmp_path)


def test_children_that_were_started_are_used_and_no_others(tmp_path):
    with pool_of(3, tmp_path) as pool:
        pool.start(1)
        wait_until(lambda: loaded(tmp_path))
        assert sorted(pool.run(["a"])) == shouted(["a"])
    assert len(loaded(tmp_path)) == 1


def test_many_tasks_in_hand_are_answered_in_any_order(tmp_path):
    with pool_of(1, tmp_path, "gatherer", max_in_hand=float("inf")) as pool:
        assert list(pool.run(["a", "b", "c"])) == [("c", "C"), ("b", "B"), ("a", "A")]


def test_what_needs_no_child_is_answered_without_one(tmp_path):
    with pool_of(1, tmp_path) as pool:
        assert list(pool.run([Answered("a", 1), Answered("b", 2)])) == [("a", 1), ("b", 2)]
    assert not loaded(tmp_path)


def test_a_child_is_told_things_among_its_tasks_and_has_its_own_environment():
    pool = Pool("pool_targets:load_listener", environments=[{"POOL_TEST": "here"}], on_death=ENDS)
    with contextlib.closing(pool):
        pool.start()
        pool.tell("one")
        assert pool.ask("task") == (["one"], "here")
        pool.tell("two")
        assert pool.ask("task") == (["one", "two"], "here")


def test_a_task_of_which_nothing_is_left_is_answered(tmp_path):
    with pool_of(1, tmp_path, "speller", rest=lambda task, letter: task.removeprefix(letter)) as pool:
        assert [letter for _, letter in pool.run(["abc", "de"])] == list("abcde")


def test_an_answer_comes_before_the_next_task(tmp_path):
    answered = threading.Semaphore(0)

    def tasks():
        for name in "abc":
            yield name
            assert answered.acquire(timeout=SECONDS), "the answer was held back until the next task"

    found = []
    with pool_of(2, tmp_path) as pool:
        for pair in pool.run(tasks()):
            found.append(pair)
            answered.release()
    assert found == shouted("abc")


def test_tasks_are_pulled_as_there_is_room(tmp_path):
    pulled = []

    def tasks():
        for number in range(100):
            pulled.append(number)
            yield "wait x"

    with pool_of(2, tmp_path, max_in_hand=2) as pool:
        answers = pool.run(tasks())
        threading.Thread(target=lambda: wait_until(lambda: len(pulled) == 5) or Path(tmp_path, "go-x").touch()).start()
        next(answers)
        answers.close()
    assert len(pulled) < 20


@pytest.mark.parametrize(("num_children", "max_in_hand"), [(1, 1), (2, 2)])
def test_tasks_are_pulled_no_faster_than_answers_are_taken(tmp_path, num_children, max_in_hand):
    pulled, num_taken = [], 0

    def tasks():
        for number in range(60):
            pulled.append(number)
            yield f"task {number}"

    with pool_of(num_children, tmp_path, max_in_hand=max_in_hand) as pool:
        for _ in pool.run(tasks()):
            num_taken += 1
            # in hand, waiting to be taken, and the one that waits to be given out
            assert len(pulled) - num_taken <= 2 * num_children * max_in_hand + 1
    assert num_taken == 60


def test_questions_from_several_threads(tmp_path):
    with pool_of(2, tmp_path) as pool:
        found = {}
        threads = [threading.Thread(target=lambda n=n: found.update({n: pool.ask(f"task {n}")})) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert found == {n: f"TASK {n}" for n in range(8)}


def test_the_time_is_told_while_nothing_comes(tmp_path):
    with pool_of(1, tmp_path) as pool:
        found = list(pool.run(["wait x"], on_wait=lambda: Path(tmp_path, "go-x").touch()))
    assert found == [("wait x", "WAIT X")]


def test_what_is_raised_while_nothing_comes_ends_it(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pool_of(1, tmp_path) as pool, pytest.raises(KeyboardInterrupt):
        list(pool.run(["sleep"], on_wait=stop))


# --- deaths: tried alone


@pytest.mark.parametrize("num_children", [1, 2])
@pytest.mark.parametrize("max_in_hand", [1, 2, 5])
def test_trying_alone_finds_the_bad_one(tmp_path, num_children, max_in_hand):
    tasks = [f"task {number}" for number in range(9)]
    tasks[4] = "die 4"
    with pool_of(num_children, tmp_path, max_in_hand=max_in_hand, on_death=ALONE) as pool:
        answers = list(pool.run(tasks))
    assert crashes(answers) == ["die 4"]
    assert sorted(pair for pair in answers if pair[0] != "die 4") == shouted([*tasks[:4], *tasks[5:]])
    assert "memory" in str(dict(answers)["die 4"])  # SIGKILL is what the kernel sends when there is none left


def test_several_bad_ones_in_hand_at_once(tmp_path):
    tasks = ["wait x", "die 1", "b", "die 3"]
    with pool_of(1, tmp_path, max_in_hand=4, on_death=ALONE) as pool:

        def let_go():
            wait_until(lambda: len(pool._places[0].in_hand) == 4)
            Path(tmp_path, "go-x").touch()

        threading.Thread(target=let_go).start()
        answers = list(pool.run(tasks))
    assert sorted(crashes(answers)) == ["die 1", "die 3"]
    assert sorted(pair for pair in answers if "die" not in pair[0]) == shouted(["wait x", "b"])


def test_one_that_dies_once_costs_nothing(tmp_path):
    tasks = ["a", "once b", "c"]
    with pool_of(1, tmp_path, max_in_hand=3, on_death=ALONE) as pool:
        assert sorted(pool.run(tasks)) == shouted(tasks)


def test_each_is_tried_in_a_fresh_child(tmp_path):
    tasks = ["log 1", "log once 2", "log 3"]
    with pool_of(1, tmp_path, max_in_hand=3, on_death=ALONE) as pool:
        pool.start()
        assert sorted(pool.run(tasks)) == shouted(tasks)
    tried = {number: {path.name.split("-")[-1] for path in tmp_path.glob(f"begun-{number}-*")} for number in "23"}
    assert len(tried["2"]) == 2
    assert not tried["2"] & tried["3"]


def test_only_bad_ones(tmp_path):
    tasks = [f"die {number}" for number in range(4)]
    with pool_of(2, tmp_path, max_in_hand=2, on_death=ALONE) as pool:
        assert sorted(crashes(pool.run(tasks))) == tasks


def test_a_question_that_kills_is_answered_by_its_death_and_the_next_one_as_ever(tmp_path):
    with pool_of(1, tmp_path, on_death=ALONE) as pool:
        assert isinstance(pool.ask("die"), ChildDiedError)
        assert pool.ask("a") == "A"


def test_a_child_that_dies_with_nothing_in_hand_is_started_again_for_the_next(tmp_path):
    with pool_of(1, tmp_path, on_death=ALONE) as pool:
        assert pool.ask("a") == "A"
        pool._places[0].child.kill()
        wait_until(lambda: pool._places[0].child is None)
        assert pool.ask("b") == "B"


# --- deaths: sent again


@pytest.mark.parametrize("max_in_hand", [1, 3])
def test_sending_again_succeeds(tmp_path, max_in_hand):
    tasks = ["a", "once b", "c", "once d", "e"]
    again = DeathPolicy(error=gone, max_deaths=1)
    with pool_of(1, tmp_path, max_in_hand=max_in_hand, on_death=again) as pool:
        assert sorted(pool.run(tasks)) == shouted(tasks)


def test_only_the_rest_of_a_task_is_sent_again(tmp_path):
    Path(tmp_path, "dies-at-c").touch()
    policy = DeathPolicy(error=gone, max_deaths=1)
    rest = lambda task, letter: task.removeprefix(letter)  # noqa: E731
    with pool_of(1, tmp_path, "speller", on_death=policy, rest=rest, max_in_hand=2) as pool:
        assert "".join(letter for _, letter in pool.run(["abcd", "ef"])) == "abcdef"
    assert [len(list(tmp_path.glob(f"at-{letter}-*"))) for letter in "abcd"] == [1, 1, 2, 1]


@pytest.mark.parametrize("max_deaths", [0, 1, 2])
def test_a_pool_gives_up_after_so_many_deaths(tmp_path, max_deaths):
    policy = DeathPolicy(error=gone, max_deaths=max_deaths)
    with pool_of(1, tmp_path, on_death=policy) as pool, pytest.raises(OmnicapError, match=r"gone .killed") as caught:
        list(pool.run(["log die x"]))
    assert caught.value.hint == "Again."
    assert len(list(tmp_path.glob("begun-*"))) == max_deaths + 1


def test_deaths_count_from_the_last_answer_on(tmp_path):
    tasks = [f"once {number}" for number in range(6)]
    with pool_of(1, tmp_path, on_death=DeathPolicy(error=gone, max_deaths=1)) as pool:
        assert sorted(pool.run(tasks)) == shouted(tasks)


def test_a_death_ends_a_pool_with_other_children_at_work(tmp_path):
    with pool_of(2, tmp_path) as pool, pytest.raises(OmnicapError, match="gone"):
        list(pool.run(["sleep", "die"]))


def test_all_who_ask_hear_that_a_pool_is_over(tmp_path):
    heard = []

    def ask(task):
        try:
            pool.ask(task)
        except OmnicapError as error:
            heard.append(error.message)

    with pool_of(2, tmp_path) as pool:
        sleeping = threading.Thread(target=ask, args=("log sleep",))
        sleeping.start()
        wait_until(lambda: list(tmp_path.glob("begun-sleep-*")))
        ask("die")
        sleeping.join(SECONDS)
        ask("one more")
    assert len(heard) == 3
    assert all("gone" in each for each in heard)


# --- what is raised


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("option", OptionError, "--model: 'x' is none"),
        ("engine", EngineError, "weights are of another model"),
        ("value", EngineError, "doesn't load: ValueError: bad weights"),
        ("exit", OmnicapError, "gone .exit code 7"),
        ("system exit", OmnicapError, "gone"),
    ],
)
@pytest.mark.parametrize("policy", [ENDS, DeathPolicy(error=gone, tries_alone=True)], ids=["ends", "alone"])
def test_a_target_that_does_not_load(how, kind, words, policy):
    pool = Pool("pool_targets:load_nothing", how, environments=[{}, {}], on_death=policy)
    with contextlib.closing(pool), pytest.raises(kind, match=words):
        list(pool.run(["a", "b", "c"]))
    assert children() == []


def test_a_target_that_leaves_tasks_unanswered_counts_as_dead():
    pool = Pool("pool_targets:load_nothing", "leaves early", on_death=ENDS)
    with contextlib.closing(pool), pytest.raises(OmnicapError, match=r"gone .exit code 0"):
        list(pool.run(["a"]))


@pytest.mark.parametrize("target", ["pool_targets:load_nobody", "no_such_module:load", "pool_targets"])
def test_a_target_that_is_not_there(target):
    pool = Pool(target, on_death=ENDS)
    with contextlib.closing(pool), pytest.raises(EngineError, match="doesn't load"):
        list(pool.run(["a"]))


def test_what_does_not_load_is_told_before_there_is_a_task():
    pool = Pool("pool_targets:load_nothing", "engine", on_death=ENDS)
    over = threading.Event()

    def tasks():
        over.wait(SECONDS)
        yield from ()

    pool.start()
    with contextlib.closing(pool), pytest.raises(EngineError, match="weights"):
        list(pool.run(tasks()))
    assert not over.is_set()
    over.set()


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [("refuse", OptionError, "'refuse' is refused"), ("fail", EngineError, "failed: ValueError: it can't be shouted")],
)
def test_what_a_target_raises_is_raised(tmp_path, task, kind, words):
    with pool_of(2, tmp_path, on_death=ALONE) as pool, pytest.raises(kind, match=words) as caught:
        list(pool.run(["a", task, "b"]))
    assert caught.value.hint


def test_what_the_tasks_raise_is_raised(tmp_path):
    def tasks():
        yield "a"
        raise ZeroDivisionError("from the source")

    with pool_of(1, tmp_path) as pool, pytest.raises(ZeroDivisionError, match="from the source"):
        list(pool.run(tasks()))


# --- stopping


def test_stop_finishes_what_is_in_hand(tmp_path):
    stop = threading.Event()
    with pool_of(2, tmp_path) as pool:
        answers = pool.run((f"log wait {number}" for number in range(100)), stop)
        found = []
        taking = threading.Thread(target=lambda: found.extend(answers))
        taking.start()
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        stop.set()
        for number in range(100):
            Path(tmp_path, f"go-{number}").touch()
        taking.join(SECONDS)
        assert not taking.is_alive()
    assert sorted(task for task, _ in found) == ["log wait 0", "log wait 1"]


def test_stop_leaves_it_to_the_target_what_it_finishes(tmp_path):
    stop = threading.Event()
    with pool_of(1, tmp_path, "gatherer", max_in_hand=3) as pool:
        threading.Thread(target=lambda: wait_until(lambda: Path(tmp_path, "taken-c").exists()) or stop.set()).start()
        assert list(pool.run("abcdef", stop)) == []


def test_a_child_that_dies_after_the_stop_is_not_replaced(tmp_path):
    stop = threading.Event()
    with pool_of(1, tmp_path, on_death=DeathPolicy(error=gone, max_deaths=9)) as pool:
        answers = pool.run(["log sleep"], stop)
        threading.Thread(target=lambda: wait_until(lambda: list(tmp_path.glob("begun-*"))) or stop.set()).start()
        killing = threading.Thread(target=lambda: stop.wait(SECONDS) and pool._places[0].child.kill())
        killing.start()
        assert list(answers) == []
    assert len(loaded(tmp_path)) == 1


def test_kill_ends_a_run_from_another_thread(tmp_path):
    with pool_of(2, tmp_path, on_death=DeathPolicy(error=gone, max_deaths=9)) as pool:
        killing = threading.Thread(
            target=lambda: wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2) or pool.kill()
        )
        killing.start()
        assert list(pool.run([f"log sleep {number}" for number in range(5)])) == []
    assert len(loaded(tmp_path)) == 2


def test_a_pool_that_was_closed_answers_no_more(tmp_path):
    with pool_of(1, tmp_path) as pool:
        assert pool.ask("a") == "A"
        pool.close()
        pool.close()
        with pytest.raises(ChildDiedError, match="not wanted"):
            pool.ask("b")


@pytest.mark.parametrize("task", ["log sleep", "log a"])
def test_children_end_with_their_parent(tmp_path, task):
    """Whatever they are busy with, or with nothing."""
    code = (
        "import os, sys, threading, time; from omnicap_cli.core.workers.pool import *;"
        "pool = Pool('pool_targets:load_shouter', sys.argv[1], on_death=DeathPolicy());"
        "pool.ask(sys.argv[2])"
        "; time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), task])
    wait_until(lambda: list(tmp_path.glob("begun-*")))
    [begun] = tmp_path.glob("begun-*")
    child = psutil.Process(int(begun.name.split("-")[-1]))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
