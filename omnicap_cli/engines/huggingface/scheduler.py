"""Requests through one loaded model, in batches that fit its device. It knows the model's interface, not its inside.

Three threads share the work: one reads headers and counts tokens, one plans batches and prepares their visuals, one
keeps the device busy. Each caption is given out as soon as it has ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch

from omnicap_cli.core.batching.planner import PlannedBatch, Planner, Share
from omnicap_cli.core.files.words import with_class_name
from omnicap_cli.core.models.memory import is_out_of_memory, release_memory
from omnicap_cli.core.runs.held_bytes import HeldBytes
from omnicap_cli.core.runs.records import Idle, MediaRef, Request, Result, Settings
from omnicap_cli.core.workers.prefetch import in_order
from omnicap_cli.engines.huggingface.captioner import Captioner, PreparedVisual, Question
from omnicap_cli.engines.huggingface.decoding import AbandonedError
from omnicap_cli.engines.huggingface.forecast import Requests, count_rows
from omnicap_cli.engines.item_requests import requests_by_item
from omnicap_cli.errors import EngineError, InferenceError, ItemError, OutOfMemoryError
from omnicap_cli.media.decode import decode_visual, probe_visual
from omnicap_cli.media.images import Size
from omnicap_cli.media.open_media import with_remote_content

_LOOK_THREADS: Final = 8  # they wait for disks and servers more than they compute
_POLL_SECONDS: Final = 0.2
_HUNGRY_SECONDS: Final = 0.05  # without a new item, or ten times that with new ones: then a device without work
# takes a batch that could be fuller
_MAX_HELD_BYTES: Final = 1 << 28  # of fetched files that wait, compressed, in memory


class _Measured(NamedTuple):
    """The requests of an item, and what headers told of its visuals, or why one can't be read."""

    requests: Requests
    sizes: list[Size] | ItemError


@dataclass(frozen=True, slots=True, eq=False)
class _ReadyBatch:
    """A planned batch and its visuals, share by share; an error in place of those of which one can't be decoded."""

    batch: PlannedBatch[Requests]
    visuals: Sequence[list[PreparedVisual] | ItemError]


class BatchRun:
    """One run of requests through a model that is loaded; see `Engine.run`."""

    def __init__(
        self,
        captioner: Captioner,
        planner: Planner[Requests],
        requests: Iterable[Request | Idle],
        stop: threading.Event,
        *,
        num_threads: int,
    ) -> None:
        self._captioner, self._planner, self._stop = captioner, planner, stop
        self._requests, self._num_threads = requests, num_threads
        self._done: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._ready: queue.Queue[_ReadyBatch | None] = queue.Queue(1)
        self._over = threading.Event()  # nobody takes results any more
        self._changed = threading.Condition()  # around the planner and the four that follow
        self._has_ended = self._is_idle = self._is_full = False
        self._last_added = 0.0
        self._held = HeldBytes(_MAX_HELD_BYTES)
        self._hungry_since = time.monotonic()  # the device has nothing to do; 0 while it has

    def results(self) -> Iterator[Result]:
        """One Result per Request, in any order."""
        work = self._start_thread(self._run_batches, then=lambda: self._done.put(None))
        self._start_thread(self._prepare_batches, then=lambda: self._hand_over(None))
        self._start_thread(self._measure_items, then=self._end_of_requests)
        try:
            while (result := self._done.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self._over.set()
            self._captioner.is_over.set()
            work.join()  # a process that ends while the model runs would crash
            self._captioner.is_over.clear()

    @property
    def _is_stopping(self) -> bool:
        return self._stop.is_set() or self._over.is_set()

    def _start_thread(self, task: Callable[[], None], *, then: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001  handed to the thread that runs the engine, which raises it
                self._done.put(error)
            finally:
                then()

        thread = threading.Thread(target=guarded, name=task.__name__, daemon=True)
        thread.start()
        return thread

    def _end_of_requests(self) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------- headers and counts

    def _measure_items(self) -> None:
        """Look at the headers of each item's visuals and give the counts to the planner."""
        for measured in in_order(requests_by_item(self._requests), _measure, num_threads=_LOOK_THREADS):
            if self._is_stopping:
                return
            if isinstance(measured, Idle):
                with self._changed:
                    self._is_idle = True
                    self._changed.notify_all()
            elif isinstance(measured.sizes, ItemError):
                self._fail(measured.requests, measured.sizes)
            else:
                self._add_rows(measured.requests, measured.sizes)

    def _add_rows(self, requests: Requests, sizes: Sequence[Size]) -> None:
        try:
            rows = count_rows(self._captioner.chat, requests, sizes)
        except ItemError as error:
            return self._fail(requests, error)
        contents = requests[0].item.contents
        with self._changed:
            while not self._held.has_room(contents):
                if self._is_stopping:
                    return None
                self._is_full = True
                self._changed.notify_all()
                self._changed.wait(_POLL_SECONDS)
            self._is_idle = self._is_full = False
            self._held.hold(contents)
            self._last_added = time.monotonic()
            self._planner.add(rows)
            self._changed.notify_all()
        return None

    # ------------------------------------------------------------------------------------- batches and pixels

    def _prepare_batches(self) -> None:
        """Plan batches, one ahead of the one on the device, and prepare their visuals."""
        kept: dict[int, list[PreparedVisual] | ItemError] = {}  # of groups that the next batch goes on with
        with ThreadPoolExecutor(self._num_threads, "prepare") as pool:
            while (batch := self._next_batch()) is not None:
                tasks = [
                    None if id(share.group) in kept else pool.submit(self._prepare_visuals, share.group.what[0])
                    for share in batch.shares
                ]
                visuals = [
                    task.result() if task else kept[id(share.group)]
                    for task, share in zip(tasks, batch.shares, strict=True)
                ]
                kept = {
                    id(share.group): of_share
                    for share, of_share in zip(batch.shares, visuals, strict=True)
                    if not _is_last(share)
                }
                self._hand_over(_ReadyBatch(batch, visuals))

    def _next_batch(self) -> PlannedBatch[Requests] | None:
        """The next batch once there is one; None when there will be no more."""
        with self._changed:
            while not self._is_stopping:
                batch = self._planner.next_batch(flush=self._may_not_wait())
                if batch is not None:
                    for share in filter(_is_last, batch.shares):
                        self._held.let_go(share.group.what[0].item.contents)
                    self._changed.notify_all()
                    return batch
                if self._has_ended:
                    return None
                self._changed.wait(_HUNGRY_SECONDS)
        return None

    def _may_not_wait(self) -> bool:
        """Whether waiting for more items would bring none, or cost more than a batch that isn't full."""
        now = time.monotonic()
        waited_seconds = max(now - self._last_added, (now - self._hungry_since) / 10)
        is_starving = self._hungry_since > 0 and waited_seconds > _HUNGRY_SECONDS
        return self._has_ended or self._is_idle or self._is_full or is_starving

    def _prepare_visuals(self, request: Request) -> list[PreparedVisual] | ItemError:
        """Those of the request's item, or why one of them can't be had."""
        try:
            return [self._prepare_visual(visual, request.settings) for visual in request.item.visuals]
        except ItemError as error:
            return error

    def _prepare_visual(self, visual: MediaRef, settings: Settings) -> PreparedVisual:
        own_size = replace(settings, min_pixels=None, max_pixels=None)  # the limits are the image processor's business
        try:
            image = decode_visual(visual, own_size).image
        except MemoryError as error:
            raise OutOfMemoryError("not enough memory to decode it") from error
        try:
            return self._captioner.prepare(image, settings)
        except Exception as error:  # one picture that a processor chokes on doesn't end the run
            if is_out_of_memory(error):
                what = "not enough memory to prepare it; lower --min-pixels or --max-pixels"
                raise OutOfMemoryError(what) from error
            raise InferenceError(f"the image processor failed on it: {with_class_name(error)}") from error

    def _hand_over(self, ready: _ReadyBatch | None) -> None:
        while not self._is_stopping:
            try:
                self._ready.put(ready, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    # ------------------------------------------------------------------------------------- the device

    def _run_batches(self) -> None:
        """Caption one batch after the other; when told to stop, what is on the device is finished."""
        while not self._is_stopping:
            try:
                ready = self._ready.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._hungry_since = self._hungry_since or time.monotonic()
                continue
            if ready is None:
                return
            self._hungry_since = 0.0
            self._caption_batch(ready)
            if self._ready.empty():
                self._hungry_since = time.monotonic()

    def _caption_batch(self, ready: _ReadyBatch) -> None:
        questions: dict[str, Question] = {}
        for share, visuals in zip(ready.batch.shares, ready.visuals, strict=True):
            requests = _requests_of(share)
            if isinstance(visuals, ItemError):
                self._fail(requests, visuals)
            else:
                for each in requests:
                    questions[each.key] = Question(request=each, visuals=visuals, prompt=each.prompt)
        if ready.batch.too_large:
            with self._changed:
                self._give_up(ready.batch, questions, self._planner.refusal(ready.batch))
        else:
            self._answer_batch(ready.batch, questions)

    def _answer_batch(self, batch: PlannedBatch[Requests], questions: dict[str, Question]) -> None:
        """Answer those of `questions` that are in `batch`; as they are answered, they leave `questions`."""
        asked = [questions[request.key] for request in _requests(batch) if request.key in questions]
        if not asked:
            return

        def take(result: Result) -> None:
            del questions[result.key]
            # what repeats itself is cut off, but was generated
            is_cut = result.finish_reason == "repetition"
            with self._changed:
                self._planner.observe([self._captioner.num_reached_tokens if is_cut else result.output_tokens])
            self._done.put(result)

        if (failure := self._try_answering(asked, take)) is None:
            return
        if isinstance(failure, OutOfMemoryError):
            self._answer_halves(batch, questions)
        elif len(batch.shares) > 1:  # which of the items it was shows when each is alone
            for part in self._planner.alone(batch):
                self._answer_batch(part, questions)
        else:
            self._give_up(batch, questions, failure)

    def _give_up(self, batch: PlannedBatch[Requests], questions: dict[str, Question], error: ItemError) -> None:
        left = [questions.pop(request.key).request for request in _requests(batch) if request.key in questions]
        self._fail(left, error)

    def _try_answering(self, asked: Sequence[Question], take: Callable[[Result], None]) -> ItemError | None:
        """What went wrong, but not the library's error, which holds tensors. Raises EngineError for a lost device."""
        try:
            self._captioner.answer(asked, take)
        except AbandonedError:
            return None
        except Exception as error:
            # of no more use to this process, as a GPU is after an illegal access
            if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
                raise _device_lost_error(error) from error
            kind = OutOfMemoryError if is_out_of_memory(error) else InferenceError
            return kind(f"the model failed on it: {with_class_name(error)}")
        return None

    def _answer_halves(self, batch: PlannedBatch[Requests], questions: dict[str, Question]) -> None:
        try:
            release_memory(self._captioner.device)
        except torch.AcceleratorError as error:
            raise _device_lost_error(error) from error
        try:
            with self._changed:
                halves = self._planner.halve(batch, num_reached_tokens=self._captioner.num_reached_tokens)
        except OutOfMemoryError as error:
            return self._give_up(batch, questions, error)
        for half in halves:
            self._answer_batch(half, questions)
        return None

    def _fail(self, requests: Iterable[Request], error: ItemError) -> None:
        for request in requests:
            self._done.put(Result.failed(request, error))


def _measure(requests: Requests | Idle) -> _Measured | Idle:
    """Read the headers of an item's visuals, which are fetched first if they aren't here."""
    if isinstance(requests, Idle):
        return requests
    item, settings = requests[0].item, requests[0].settings
    try:
        if item.error:
            raise item.error
        visuals = tuple(with_remote_content(visual, settings.transfer) for visual in item.visuals)
        if any(here is not visual for here, visual in zip(visuals, item.visuals, strict=True)):
            requests = [replace(request, item=replace(request.item, visuals=visuals)) for request in requests]
        return _Measured(requests, [probe_visual(visual, settings) for visual in visuals])
    except ItemError as error:
        return _Measured(requests, error)


def _is_last(share: Share[Requests]) -> bool:
    """Whether no later batch has more rows of the group."""
    return share.rows[-1] == len(share.group.what) - 1


def _requests_of(share: Share[Requests]) -> list[Request]:
    return [share.group.what[row] for row in share.rows]


def _requests(batch: PlannedBatch[Requests]) -> list[Request]:
    return [request for share in batch.shares for request in _requests_of(share)]


def _device_lost_error(error: Exception) -> EngineError:
    hint = "What was finished is kept: run the same command again."
    return EngineError(f"the device failed: {with_class_name(error)}", hint=hint)
