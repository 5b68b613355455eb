"""Child processes that share tasks, and what the death of one means. It knows neither the tasks nor their answers.

For a new use there are three things to write. A target, which a child calls with the pool's `config`, and which returns
a `pool_child.Work`: that pulls as many assignments as it likes, and answers each, in any order; before, it may `say`
something of it. The pool itself. And a loop over what the children say:

    def load(config):
        model = Model(config)  # an OmnicapError here, or later, ends the pool, and is raised by `run`
        return answering(model.read)

    pool = Pool("package.module:load", config, environments=[{"CUDA_VISIBLE_DEVICES": "0"}], on_death=DeathPolicy(...))
    for task, message in pool.run(tasks, stop): ...

A child starts when there is work for it, or by `start`. A task goes to the child that has the fewest in hand. When
`stop` is set, no more tasks are given out, and `run` ends when the children have finished what their target finishes.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from omnicap_cli.core.workers.child import Child, ChildDiedError
from omnicap_cli.core.workers.pool_child import READY, End

_POLL_SECONDS: Final = 0.2
_NO_TASK: Final = -1  # the number of what is none
_DROPPED: Final = object()  # stands for the answer of a task that nobody finishes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeathPolicy:
    """What the death of a child means; `error` makes what is raised where it ends the pool.

    Its tasks are sent again, to a child in its place. Death number `max_deaths` + 1 without a message in between ends
    the pool. With `tries_alone`, each task gets a fresh child to itself instead. One that kills that too is given up:
    its answer is the ChildDiedError. Then only a death before the target has loaded ends the pool, if there is `error`.
    """

    error: Callable[[ChildDiedError], Exception] | None = None
    max_deaths: int = 0
    tries_alone: bool = False

    def ends_pool(self, *, is_ready: bool, num_deaths: int) -> bool:
        """Whether it is over after so many deaths in one place."""
        return self.error is not None and not is_ready if self.tries_alone else num_deaths > self.max_deaths


class Answered(NamedTuple):
    """Stands among the tasks of a run for one that needs no child."""

    task: Any
    message: Any


@dataclass(slots=True, eq=False)
class _Task:
    number: int
    content: Any
    inbox: _Inbox


_Inbox = queue.SimpleQueue[tuple[_Task | None, Any, bool]]  # of which task, what, and whether it is the last


@dataclass(slots=True, eq=False)
class _ChildPlace:
    """A child, or the one that took over from it, and what is in hand there."""

    environment: Mapping[str, str]
    child: Child | None = None
    is_ready: bool = False
    num_deaths: int = 0  # since the last message
    in_hand: dict[int, _Task] = field(default_factory=dict)
    to_try: list[_Task] = field(default_factory=list)  # alone, one after the other: the first is in hand


class Pool:
    """Children that run `target` ("module:function") with `config`, one for each of `environments`: variables to set.

    None has more than `max_in_hand` tasks. `rest` tells, of a task and a message, what is still to be done, which is
    what a child is given that takes over; if that is nothing, it was the answer. For one `run`, or any number of `ask`.
    """

    def __init__(
        self,
        target: str,
        config: Any = None,
        *,
        on_death: DeathPolicy,
        environments: Sequence[Mapping[str, str]] = ({},),
        max_in_hand: float = 1,
        rest: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._target, self._config, self._on_death, self._rest = target, config, on_death, rest
        self._places = [_ChildPlace(environment) for environment in environments]
        self._max_in_hand, self._numbers = max_in_hand, itertools.count()
        self._changed = threading.Condition()  # held for all but hearing children, and killing them
        self._stop = threading.Event()
        self._end: End | None = None
        self._is_killed = False
        self._error: BaseException | None = None

    def start(self, num_children: int | None = None) -> None:
        """Start so many children now, by default all: work is certain to come."""
        with self._changed:
            for place in self._places[:num_children]:
                if place.child is None:
                    self._start_child(place)

    def tell(self, message: Any) -> None:
        """Hand something to every child that is there, among its tasks. It is not answered, nor told again."""
        with self._changed:
            for place in self._places:
                if place.child:
                    place.child.send((_NO_TASK, message))

    def ask(self, task: Any) -> Any:
        """The answer to one task. From any thread. Raises what ended the pool."""
        inbox: _Inbox = queue.SimpleQueue()
        if self._submit(task, inbox):
            answer = next(message for _, message, is_last in iter(inbox.get, None) if is_last)
            if answer is not _DROPPED:
                return answer
        raise self._error or ChildDiedError("its work was not wanted any more")

    def run(
        self, tasks: Iterable[Any], stop: threading.Event | None = None, *, on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Any, Any]]:
        """Each message with its task, as they come; an answer is the last of a task. The children end with the run.

        Tasks are pulled in a thread, as there is room for them, and no faster than messages are taken. Raises what they
        do, what ended the pool, and what `on_wait` does, which is called from time to time while nothing comes.
        """
        self._stop = stop or self._stop
        inbox: _Inbox = queue.SimpleQueue()
        threading.Thread(target=self._feed, args=(tasks, inbox), name="feed", daemon=True).start()
        num_done, num_tasks = 0, -1  # how many there are is not known yet
        try:
            while num_done != num_tasks:
                if self._stop.is_set():
                    self._announce(End.AT_ONCE)
                try:
                    task, message, is_last = inbox.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    task, message, is_last = None, num_tasks, False
                    on_wait()
                with self._changed:
                    self._changed.notify_all()  # there is room for one more
                num_done += is_last
                if task and message is not _DROPPED:
                    yield task.content, message
                elif self._error:
                    raise self._error
                elif not task:
                    num_tasks = message
        finally:
            self.close()

    def kill(self) -> None:
        """End every child at once; what is in hand is given up. From any thread or signal handler."""
        self._is_killed = True
        for place in self._places:
            if place.child:
                place.child.kill()

    def close(self) -> None:
        """End every child and wait until they are gone."""
        self.kill()
        with self._changed:  # one may be starting just now
            for place in self._places:
                if place.child:
                    place.child.death()

    def _feed(self, tasks: Iterable[Any], inbox: _Inbox) -> None:
        num_tasks = 0
        try:
            for content in tasks:
                self._wait_for_reader(inbox)
                if isinstance(content, Answered) and not self._is_unwanted():
                    inbox.put((_Task(_NO_TASK, content.task, inbox), content.message, True))
                elif not self._submit(content, inbox):
                    break
                num_tasks += 1
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._error = self._error or error
        self._announce(End.AT_ONCE if self._stop.is_set() else End.AFTER_ALL)
        inbox.put((None, num_tasks, False))

    def _wait_for_reader(self, inbox: _Inbox) -> None:
        """Hold tasks back while as many messages wait to be taken as there are tasks in hand at most."""
        with self._changed:
            while inbox.qsize() >= self._max_in_hand * len(self._places) and not self._is_unwanted():
                self._changed.wait(_POLL_SECONDS)

    def _submit(self, content: Any, inbox: _Inbox) -> bool:
        """Give a task to a child as soon as one has room. Whether that was before it was unwanted."""
        with self._changed:
            while not self._is_unwanted():
                roomy = [each for each in self._places if not each.to_try and len(each.in_hand) < self._max_in_hand]
                if not roomy:
                    self._changed.wait(_POLL_SECONDS)
                    continue
                place = min(roomy, key=lambda each: (len(each.in_hand), each.child is None))
                task = _Task(next(self._numbers), content, inbox)
                place.in_hand[task.number] = task
                if place.child:
                    place.child.send((task.number, content))
                else:
                    self._start_child(place)
                return True
        return False

    def _is_unwanted(self) -> bool:
        return self._is_killed or self._stop.is_set()

    def _announce(self, end: End) -> None:
        with self._changed:
            if self._end is not end:
                self._end = end
                self.tell(end)

    def _start_child(self, place: _ChildPlace) -> None:
        self._fill(place)
        threading.Thread(target=self._tend, args=(place,), name="tend", daemon=True).start()

    def _fill(self, place: _ChildPlace) -> None:
        """Put a fresh child there, with what is in hand: where tasks are tried alone, the next of them."""
        if place.child:
            place.child.kill()
            place.child.death()
        if place.to_try:
            place.in_hand = {place.to_try[0].number: place.to_try[0]}
        child = Child("omnicap_cli.core.workers.pool_child:main", self._target, environment=place.environment)
        place.child, place.is_ready = child, False
        if self._is_killed:  # too early to kill this one
            child.kill()
        for message in (self._config, *((task.number, task.content) for task in place.in_hand.values())):
            child.send(message)
        if self._end:
            child.send((_NO_TASK, self._end))

    def _tend(self, place: _ChildPlace) -> None:
        """Hear the children of a place, one after the other."""
        try:
            is_filled = True
            while is_filled:
                assert place.child
                try:
                    self._take_in(place, place.child.receive())
                except ChildDiedError as death:
                    is_filled = self._bury(place, death)
        except BaseException as error:  # noqa: BLE001  raised by `run` and `ask`
            self._error = self._error or error
            self.kill()
            self._drop_tasks(place)

    def _take_in(self, place: _ChildPlace, message: Any) -> None:
        if isinstance(message, BaseException):
            raise message
        place.is_ready = True
        if message == READY:
            return
        with self._changed:
            place.num_deaths = 0
            number, content, is_last = message
            task = place.in_hand[number]
            if self._rest:
                task.content = self._rest(task.content, content)
                is_last = not task.content
            if is_last:
                del place.in_hand[number], place.to_try[:1]
                if place.to_try:
                    self._fill(place)
            task.inbox.put((task, content, is_last))
            self._changed.notify_all()

    def _bury(self, place: _ChildPlace, death: ChildDiedError) -> bool:
        """See to what a dead child had in hand. Whether another took over."""
        if not (place.is_ready or self._is_killed):
            self._stop.wait(_POLL_SECONDS)  # it may have died of a signal that was for all, and that we hear of too
        with self._changed:
            if self._is_unwanted() or (self._end and not place.in_hand):
                self._drop_tasks(place)
                return False
            place.num_deaths += 1
            if self._on_death.ends_pool(is_ready=place.is_ready, num_deaths=place.num_deaths):
                raise self._on_death.error(death) if self._on_death.error else death
            if place.to_try:
                culprit = place.to_try.pop(0)
                del place.in_hand[culprit.number]
                culprit.inbox.put((culprit, death, True))
            elif self._on_death.tries_alone:
                place.to_try = list(place.in_hand.values())
            if place.in_hand or place.to_try:
                self._fill(place)
            else:
                place.child = None  # until there is work for one
            self._changed.notify_all()
            return place.child is not None

    def _drop_tasks(self, place: _ChildPlace) -> None:
        with self._changed:
            for task in {*place.in_hand.values(), *place.to_try}:
                task.inbox.put((task, _DROPPED, True))
            place.in_hand.clear()
            place.to_try.clear()
