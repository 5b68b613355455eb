"""The loop between a source, an engine and a sink, each of them scripted: who is asked what, and how far ahead."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.runs import pipeline
from omnicap_cli.core.runs.engine import Engine
from omnicap_cli.core.runs.journal import KnownOutcome
from omnicap_cli.core.runs.pipeline import Pipeline, Policy, RunTally
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import EngineIdentity, Idle, Item, MediaRef, Prompt, Request, Result, Settings
from omnicap_cli.core.runs.sinks import StreamSink
from omnicap_cli.errors import EngineError, InferenceError, JournalWriteError, OptionError

IDENTITY = EngineIdentity(engine="scripted", model="none", revision=None, fingerprint="1")
BOUND = 5_000  # items ahead of the slowest part; the exact number is nobody's business


class ScriptedEngine(Engine):
    """Answers in batches that it may reorder; `failing` says which items fail. Keeps what it was given."""

    identity = IDENTITY

    def __init__(
        self,
        *,
        batch_size: int = 1,
        arrange: Callable[[list[Request]], list[Request]] = list,
        failing: Callable[[str], bool] = lambda _: False,
        error_after: int | None = None,
    ) -> None:
        self.given: list[Request] = []
        self.num_idle = 0
        self._batch_size, self._arrange, self._failing = batch_size, arrange, failing
        self._error_after = error_after

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        batch: list[Request] = []
        for request in requests:
            if isinstance(request, Idle):
                self.num_idle += 1
            else:
                self.given.append(request)
                batch.append(request)
            if len(batch) == self._batch_size or isinstance(request, Idle):
                yield from self._answer(batch)
                batch = []
        if not stop.is_set():
            yield from self._answer(batch)

    def _answer(self, batch: list[Request]) -> Iterator[Result]:
        for request in self._arrange(batch):
            if self._error_after is not None and len(self.given) > self._error_after:
                raise EngineError("the device is gone")
            if self._failing(request.item.id):
                yield Result.failed(request, InferenceError("it fails"))
            else:
                yield Result(key=request.key, text=f"text of {request.item.id}", output_tokens=2)

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


class ListSink:
    """Records in a list; `known` as given."""

    def __init__(self, known: dict[str, KnownOutcome] | None = None) -> None:
        self.lines: list[bytes] = []
        self._known = known or {}

    def known(self, key: str) -> KnownOutcome | None:
        return self._known.get(key)

    def append(self, _number: int, _request: Request, _result: Result, line: bytes) -> int:
        self.lines.append(line)
        return 1

    @property
    def ids(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.lines]


def make_plan(num_prompts: int = 1) -> RequestPlan:
    prompts = [Prompt(type="t", style=f"s{number}", lang="en", system="", user="?") for number in range(num_prompts)]
    return RequestPlan(prompts=prompts, engine=IDENTITY, settings=Settings())


def make_items(count: int) -> Iterator[Item]:
    for number in range(count):
        yield Item(id=f"{number}", image=f"{number}", visuals=(MediaRef(path=f"{number}"),), fingerprint="f")


def run_pipeline(
    groups: Iterable[list[Request]],
    engine: Engine,
    sink: pipeline.Sink,
    *,
    policy: Policy | None = None,
    stop: threading.Event | None = None,
    on_result: Callable[[Request, Result, RunTally], None] = lambda *_: None,
) -> RunTally:
    stop = stop or threading.Event()
    try:
        return Pipeline(groups, engine, sink, policy=policy or Policy(), stop=stop, on_result=on_result).run()
    finally:
        stop.set()


def groups_of(count: int, num_prompts: int = 1) -> Iterator[list[Request]]:
    return make_plan(num_prompts).requests(make_items(count))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(pipeline, "IDLE_SECONDS", 0.02)


# ------------------------------------------------------------------------------------------- who is asked what


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_every_request_has_one_record(batch_size):
    sink = ListSink()
    tally = run_pipeline(groups_of(50, 3), ScriptedEngine(batch_size=batch_size), sink)
    records = [json.loads(line) for line in sink.lines]
    assert [(each["id"], each["style"]) for each in records] == [
        (str(number), f"s{style}") for number in range(50) for style in range(3)
    ]
    assert all(each["caption"] == f"text of {each['id']}" for each in records)
    assert (tally.num_planned, tally.num_ok, tally.num_failed, tally.num_output_tokens) == (150, 150, 0, 300)


def test_nothing_to_do():
    tally = run_pipeline([], ScriptedEngine(), ListSink())
    assert (tally.num_planned, tally.num_handled) == (0, 0)


def test_what_is_known_is_not_asked_again():
    (group,) = groups_of(1, 5)
    keys = [request.key for request in group]
    known = {keys[1]: KnownOutcome("ok", 1), keys[3]: KnownOutcome("error", 2)}
    engine = ScriptedEngine()
    tally = run_pipeline([group], engine, ListSink(known))
    assert [request.key for request in engine.given] == [keys[0], keys[2], keys[4]]
    assert [request.num_following for request in engine.given] == [2, 1, 0]
    assert (tally.num_done_before, tally.num_failed_before, tally.num_ok, tally.num_planned) == (1, 1, 3, 5)


def test_errors_are_asked_again_on_demand():
    (group,) = groups_of(1, 3)
    known = {
        group[0].key: KnownOutcome("error", 2),
        group[1].key: KnownOutcome("ok", 1),
        group[2].key: KnownOutcome("error", 1),
    }
    engine, sink = ScriptedEngine(), ListSink(known)
    tally = run_pipeline([group], engine, sink, policy=Policy(retry_failed=True))
    assert [(request.key, request.attempts) for request in engine.given] == [(group[0].key, 3), (group[2].key, 2)]
    assert [json.loads(line)["attempts"] for line in sink.lines] == [3, 2]
    assert (tally.num_failed_before, tally.num_done_before, tally.num_ok) == (0, 1, 2)


@given(st.lists(st.sampled_from(["ok", "error", None]), max_size=12), st.integers(1, 4), st.booleans())
def test_any_mixture_of_known_and_new(statuses, num_prompts, retry_failed):
    groups = list(groups_of(-(-len(statuses) // num_prompts), num_prompts))
    requests = list(itertools.chain.from_iterable(groups))
    known = {each.key: KnownOutcome(status, 1) for each, status in zip(requests, statuses, strict=False) if status}
    statuses = statuses + [None] * (len(requests) - len(statuses))
    engine = ScriptedEngine()
    tally = run_pipeline(groups, engine, ListSink(known), policy=Policy(retry_failed=retry_failed))
    wanted = [None, "error"] if retry_failed else [None]
    expected = [each.key for each, status in zip(requests, statuses, strict=True) if status in wanted]
    assert [request.key for request in engine.given] == expected
    assert tally.num_handled == tally.num_planned == len(requests)
    following = [  # whoever keeps the requests of an item together relies on it
        sum(later.item.id == each.item.id for later in engine.given[place + 1 :])
        for place, each in enumerate(engine.given)
    ]
    assert [request.num_following for request in engine.given] == following


# ---------------------------------------------------------------------------------------------- what can fail


def test_an_error_of_the_source_is_raised():
    def broken() -> Iterator[list[Request]]:
        yield from groups_of(3)
        raise RuntimeError("the source broke")

    sink = ListSink()
    with pytest.raises(RuntimeError, match="the source broke"):
        run_pipeline(broken(), ScriptedEngine(), sink)
    assert sink.ids == ["0", "1", "2"]


def test_an_error_of_the_sink_is_raised():
    class FullSink(ListSink):
        def append(self, number: int, request: Request, result: Result, line: bytes) -> int:
            if number == 2:
                raise JournalWriteError("full")
            return super().append(number, request, result, line)

    sink = FullSink()
    with pytest.raises(JournalWriteError):
        run_pipeline(groups_of(10), ScriptedEngine(), sink)
    assert sink.ids == ["0", "1"]


def test_an_error_of_the_engine_is_raised_and_no_record():
    sink = ListSink()
    with pytest.raises(EngineError, match="the device is gone"):
        run_pipeline(groups_of(10), ScriptedEngine(error_after=4), sink)
    assert sink.ids == ["0", "1", "2", "3"]
    assert all(json.loads(line)["status"] == "ok" for line in sink.lines)


def test_errors_of_items_are_counted_by_kind():
    tally = run_pipeline(groups_of(10), ScriptedEngine(failing=lambda name: int(name) % 5 == 0), ListSink())
    assert (tally.num_ok, tally.num_failed, tally.errors, tally.gave_up) == (8, 2, {"InferenceError": 2}, None)


def test_fail_fast_stops_but_keeps_what_is_on_the_device():
    engine, sink = ScriptedEngine(batch_size=5, failing=lambda name: name in "17"), ListSink()
    tally = run_pipeline(groups_of(1000), engine, sink, policy=Policy(fail_fast=True))
    assert sink.ids == ["0", "1", "2", "3", "4"]
    assert "--fail-fast" in tally.gave_up
    assert "it fails" in tally.gave_up


@pytest.mark.parametrize(
    ("rate", "failing", "num_finished"),
    [
        (0.0, {25}, 26),  # the first error after twenty is over a rate of nothing
        (0.1, {0, 1, 2}, 20),  # 3 of 20: over, but looked at only from twenty on
        (0.1, {0, 1}, 100),  # 2 of 20 is just the limit, which may be reached
        (0.5, set(range(0, 100, 2)), 21),  # 11 of 21 is over, 10 of 20 was not
        (1.0, set(range(100)), 100),
    ],
)
def test_max_error_rate(rate, failing, num_finished):
    engine = ScriptedEngine(failing=lambda name: int(name) in failing)
    tally = run_pipeline(groups_of(100), engine, ListSink(), policy=Policy(max_error_rate=rate))
    assert tally.num_finished == num_finished
    assert bool(tally.gave_up) == (num_finished < 100)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_error_rate_is_a_share(rate):
    with pytest.raises(OptionError, match="--max-error-rate"):
        Policy(max_error_rate=rate)


def test_a_stop_from_outside_keeps_what_is_on_the_device():
    stop, sink = threading.Event(), ListSink()

    def stop_at_seven(request: Request, _result: Result, _tally: RunTally) -> None:
        if request.item.id == "7":
            stop.set()

    tally = run_pipeline(groups_of(1000), ScriptedEngine(batch_size=5), sink, stop=stop, on_result=stop_at_seven)
    assert sink.ids == [str(number) for number in range(10)]
    assert (tally.num_finished, tally.gave_up) == (10, None)


def test_a_stop_while_the_source_is_silent():
    stop = threading.Event()

    def silent() -> Iterator[list[Request]]:
        yield from groups_of(2)
        stop.wait()

    threading.Timer(0.1, stop.set).start()
    sink = ListSink()
    run_pipeline(silent(), ScriptedEngine(), sink, stop=stop)
    assert sink.ids == ["0", "1"]


# ------------------------------------------------------------------------------------------- how far ahead


def test_a_slow_source_makes_the_engine_flush():
    more, sink = threading.Event(), ListSink()

    def slow() -> Iterator[list[Request]]:
        first, second = groups_of(2)
        yield first
        assert more.wait(30), "the first result doesn't come while the source is silent"
        yield second

    engine = ScriptedEngine(batch_size=4)
    run_pipeline(slow(), engine, sink, on_result=lambda *_: more.set())
    assert sink.ids == ["0", "1"]
    assert engine.num_idle


class Counted:
    """An endless supply that knows how much of it was taken."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.num_taken = 0

    def __iter__(self) -> Iterator[list[Request]]:
        for group in groups_of(self._count):
            self.num_taken += 1
            yield group


def test_planning_waits_for_a_slow_sink():
    supply, stop, most_ahead = Counted(100_000), threading.Event(), 0

    class SlowSink(ListSink):
        def append(self, number: int, request: Request, result: Result, line: bytes) -> int:
            nonlocal most_ahead
            if number in (0, 700):
                wait_until_quiet(lambda: supply.num_taken)
            most_ahead = max(most_ahead, supply.num_taken - number)
            if number == 3_000:
                stop.set()
            return super().append(number, request, result, line)

    run_pipeline(supply, ScriptedEngine(batch_size=16), SlowSink(), stop=stop)
    assert most_ahead < BOUND
    assert supply.num_taken < 3_000 + BOUND


def test_a_greedy_engine_is_held_back():
    """One that would take everything before it answers gets a window, then Idle until it flushes."""
    supply, num_held = Counted(20_000), []
    engine = ScriptedEngine(batch_size=10**9)
    sink = ListSink()
    run_pipeline(supply, engine, sink, on_result=lambda *_: num_held.append(len(engine.given) - len(num_held)))
    assert sink.ids == [str(number) for number in range(20_000)]
    assert max(num_held) < BOUND
    assert engine.num_idle


def test_a_first_result_that_comes_last_holds_everything_back_within_the_window():
    class LateFirst(ScriptedEngine):
        """Answers all at once but the very first, which takes as long as there is anything else to do."""

        def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
            first: Request | None = None
            for request in requests:
                if isinstance(request, Request):
                    self.given.append(request)
                if first is None and len(self.given) == 1:
                    first = self.given[0]
                elif isinstance(request, Request):
                    yield from self._answer([request])
                elif first and len(self.given) > 1:
                    held_back.append(len(self.given))
                    yield from self._answer([first])
                    first = Request(key="", item=first.item, prompt=first.prompt, settings=first.settings)
                    break
            for request in requests:
                if isinstance(request, Request):
                    yield from self._answer([request])

    held_back: list[int] = []
    lines: list[bytes] = []
    run_pipeline(groups_of(8_000), LateFirst(), StreamSink(lines.append))
    assert [json.loads(line)["id"] for line in lines] == [str(number) for number in range(8_000)]
    assert held_back[0] < BOUND


def wait_until_quiet(number: Callable[[], int]) -> None:
    """Until `number` hasn't changed for a while."""
    before = -1
    while before != number():
        before = number()
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------------- a stream


@given(st.permutations(range(12)), st.integers(0, 12))
def test_a_stream_has_the_order_of_the_requests(arrival, num_arrived):
    written: list[bytes] = []
    sink = StreamSink(written.append)
    (request,) = next(groups_of(1))
    result = Result(key=request.key, text="")
    num_out = 0
    for place, number in enumerate(arrival[:num_arrived]):
        num_out += sink.append(number, request, result, b"%d" % number)
        so_far = set(arrival[: place + 1])
        num_due = next(each for each in itertools.count() if each not in so_far)
        assert written == [b"%d" % each for each in range(num_due)]  # neither late nor early
        assert num_out == num_due
    sink.flush()
    assert written == [b"%d" % each for each in sorted(arrival[:num_arrived])]


def test_an_unordered_stream_holds_nothing_back():
    written: list[bytes] = []
    sink = StreamSink(written.append, ordered=False)
    (request,) = next(groups_of(1))
    for number in (3, 0, 2):
        assert sink.append(number, request, Result(key=request.key, text=""), b"%d" % number) == 1
    assert written == [b"3", b"0", b"2"]


def test_a_shuffling_engine_and_an_ordered_stream():
    def shuffled(batch: list[Request]) -> list[Request]:
        return random.Random(len(batch)).sample(batch, len(batch))

    lines: list[bytes] = []
    run_pipeline(groups_of(300, 2), ScriptedEngine(batch_size=32, arrange=shuffled), StreamSink(lines.append))
    records = [json.loads(line) for line in lines]
    expected = [(str(number), f"s{style}") for number in range(300) for style in range(2)]
    assert [(each["id"], each["style"]) for each in records] == expected
