"""Which rows run together: as many of similar length as the device's memory holds, by their exact token counts.

It knows counts, not pixels or text: what is asked stays with the engine, and `footprint` knows what a batch weighs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from omnicap_cli.core.batching.answer_lengths import AnswerLengths
from omnicap_cli.core.batching.footprint import Footprint, Load, ModelShape, total_load
from omnicap_cli.core.batching.window import Waiting, Window
from omnicap_cli.core.files.words import gigabytes
from omnicap_cli.errors import OutOfMemoryError

T = TypeVar("T")

WINDOW_GROUPS: Final = 1000
WINDOW_BATCHES: Final = 32  # with so many to choose from, the lengths within a batch are close
MAX_PADDING: Final = 0.25  # of a batch's prompt tokens: they cost a prefill, while one row more costs decoding little
FREE_PADDING_TOKENS: Final = 128  # of a row, beside that: in short prompts it costs next to nothing
MAX_UNUSED: Final = 0.1  # of the memory: rather than leave more, a batch begins a group that the next one ends
MAX_PASSES: Final = 3  # batches one after the other that begin with the rest of a group, not with the oldest
CEILING_AFTER_FAILURE: Final = 0.85  # of what was predicted for the batch that didn't fit


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup(Generic[T]):
    """The prompts about one item, each of which is a row of a batch, and the visuals that they share.

    `what` is the engine's own. `num_patches`, of each visual, go through the vision encoder and become
    `num_visual_tokens` in all; where the text says everything there are none. `prompt_tokens` are the text tokens of
    each row, without the visuals'.
    """

    what: T
    num_patches: tuple[int, ...] = ()
    num_visual_tokens: int = 0
    prompt_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.prompt_tokens, "an item that is asked nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Generic[T]):
    """The rows of a group that one batch takes, by their place in `prompt_tokens`: nearly always all of them."""

    group: RowGroup[T]
    rows: tuple[int, ...]

    @property
    def load(self) -> Load:
        """What it puts on the device if it is alone."""
        group, num_rows = self.group, len(self.rows)
        texts = [group.prompt_tokens[row] for row in self.rows]
        return Load(
            num_rows=num_rows,
            length=group.num_visual_tokens + max(texts),
            num_tokens=group.num_visual_tokens * num_rows + sum(texts),
            num_visual_tokens=group.num_visual_tokens,
            num_row_visual_tokens=group.num_visual_tokens * num_rows,
            num_patches=sum(group.num_patches),
            largest_num_patches=max(group.num_patches, default=0),
        )

    def cut(self, num_rows: int) -> tuple[Share[T], Share[T]]:
        """The first `num_rows` rows, and the others; either may be none."""
        return replace(self, rows=self.rows[:num_rows]), replace(self, rows=self.rows[num_rows:])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch(Generic[T]):
    """Rows that run together, shorter prompts first.

    `num_bytes` is what it takes at most beside the weights if its rows grow by `num_new_tokens`. `too_large` marks a
    row that is alone, and even so predicted to take more than there is.
    """

    shares: tuple[Share[T], ...]
    load: Load
    num_bytes: int
    num_new_tokens: int
    too_large: bool = False

    @property
    def num_rows(self) -> int:
        """The rows of all shares."""
        return self.load.num_rows

    @property
    def padded_length(self) -> int:
        """The prompt tokens of the longest row, to which the others are padded."""
        return self.load.length


@dataclass(slots=True, kw_only=True)
class Totals:
    """What the batches of a run come to, without the rows that are too large."""

    num_batches: int = 0
    num_rows: int = 0
    num_tokens: int = 0
    num_too_large: int = 0

    def add(self, batch: PlannedBatch[T]) -> None:
        """Count a batch."""
        if batch.too_large:
            self.num_too_large += 1
            return
        self.num_batches += 1
        self.num_rows += batch.num_rows
        self.num_tokens += batch.load.num_tokens


class Planner(Generic[T]):
    """Makes batches of the groups that wait, each around the one that has waited longest.

    So nothing waits for ever, and the same groups in the same order make the same batches. `budget_bytes` is the
    device's memory beside the weights; `max_rows` bounds a batch too, if given. Not for several threads at once.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        budget_bytes: int,
        max_new_tokens: int,
        max_rows: int | None = None,
        window_groups: int = WINDOW_GROUPS,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.ceiling_bytes = budget_bytes
        self.num_waiting_rows = 0
        self.totals = Totals()
        self._footprint = Footprint(shape)
        self._lengths = AnswerLengths(max_new_tokens)
        self._max_rows = math.inf if max_rows is None else max_rows
        self._window_groups = window_groups
        self._window: Window[Share[T]] = Window()
        self._rest: Share[T] | None = None  # of the group that the last batch took a part of
        self._num_passes = 0

    def add(self, group: RowGroup[T]) -> None:
        """Let a group wait for its batch."""
        share = Share(group=group, rows=tuple(range(len(group.prompt_tokens))))
        self._window.add(share, share.load, self._peak_bytes(share.load))
        self.num_waiting_rows += len(share.rows)

    @property
    def num_waiting_batches(self) -> float:
        """About how many batches could be made of what is waiting."""
        return max(self.num_waiting_rows / self._max_rows, self._window.num_bytes / max(1, self.ceiling_bytes))

    @property
    def is_ready(self) -> bool:
        """Whether enough is waiting to choose from, or a group was begun that has to be ended."""
        if self._rest is not None or len(self._window) >= self._window_groups:
            return True
        return self.num_waiting_batches >= WINDOW_BATCHES

    def next_batch(self, *, flush: bool = False) -> PlannedBatch[T] | None:
        """The next batch, whose rows wait no longer; None where it is better to wait for more, or nothing is left.

        `flush` makes it of whatever is waiting. The rows of a group are in one batch, unless they don't fit, or
        memory would be left unused: then the others are in the batches directly after it.
        """
        if not self.num_waiting_rows or not (flush or self.is_ready):
            return None
        seed = self._take_seed()
        num_fitting = self._num_fitting(seed)
        begun, rest = seed.cut(num_fitting or 1)
        self._rest = rest if rest.rows else None
        batch = self._make_batch(self._fill_batch(begun) if num_fitting else [begun])
        self.totals.add(batch)
        self.num_waiting_rows -= batch.num_rows
        return batch

    def halve(self, batch: PlannedBatch[T], *, num_reached_tokens: int = 0) -> list[PlannedBatch[T]]:
        """Two batches in place of one that ran out of memory: of its groups, or of the rows of its only one.

        From now on no batch is planned to take more than CEILING_AFTER_FAILURE of what this one was predicted to take.
        But if its rows had grown by `num_reached_tokens`, further than planned, it was the expectation that failed:
        then the ceiling stays, and rows are expected to grow to their limit until enough have been seen again.
        Raises OutOfMemoryError for a single row.
        """
        if num_reached_tokens > batch.num_new_tokens:
            self._lengths.forget()
        else:
            predicted = self._footprint.peak_bytes(batch.load, batch.num_new_tokens)
            self.ceiling_bytes = min(self.ceiling_bytes, int(predicted * CEILING_AFTER_FAILURE))
        if batch.num_rows == 1:
            raise self.refusal(batch)
        return [self._make_batch(half) for half in self._split_evenly(batch.shares)]

    def alone(self, batch: PlannedBatch[T]) -> list[PlannedBatch[T]]:
        """A batch for each group of one."""
        return [self._make_batch([share]) for share in batch.shares]

    def refusal(self, batch: PlannedBatch[T]) -> OutOfMemoryError:
        """What is wrong with a single row that doesn't fit, with the numbers."""
        visual_tokens = batch.shares[0].group.num_visual_tokens
        text_tokens = batch.padded_length - visual_tokens
        predicted = self._footprint.peak_bytes(batch.load, batch.num_new_tokens)
        is_predicted = predicted > self.budget_bytes
        needed = f"about {gigabytes(predicted)}" if is_predicted else f"more than the expected {gigabytes(predicted)}"
        of_visuals = f"{visual_tokens:,} tokens of the picture, " if visual_tokens else ""
        return OutOfMemoryError(
            f"{of_visuals}{text_tokens:,} of the prompt and up to {batch.num_new_tokens:,} of the answer need "
            f"{needed} of memory, and {gigabytes(max(0, self.budget_bytes))} were free for them; "
            f"lower {'--max-pixels or ' if visual_tokens else ''}--max-new-tokens"
        )

    def observe(self, output_tokens: Iterable[int]) -> None:
        """Learn from the lengths of finished answers how far rows grow, which is what batches are planned for."""
        for num_tokens in output_tokens:
            self._lengths.add(num_tokens)

    def _take_seed(self) -> Share[T]:
        if self._rest is not None:
            self._num_passes += 1
            return self._rest
        self._num_passes = 0
        oldest = self._window.oldest()
        self._window.remove([oldest])
        return oldest.what

    def _num_fitting(self, share: Share[T]) -> int:
        """How many of its rows fit into a batch of their own."""
        counts = range(len(share.rows), 0, -1)
        return next((count for count in counts if self._fits(share.cut(count)[0].load)), 0)

    def _fill_batch(self, seed: Share[T]) -> list[Share[T]]:
        """`seed` and what fits beside it, the nearest lengths first; then a part of a group if much is left."""
        load, taken, left = seed.load, [], []
        for waiting in self._window.nearest(load.length):
            if not self._fits(load.plus(Load(num_rows=1))):
                break
            more = load.plus(waiting.load)
            if self._suits(more):
                load = more
                taken.append(waiting)
            elif waiting.load.num_rows > 1:
                left.append(waiting)
        self._window.remove(taken)
        shares = [seed, *(waiting.what for waiting in taken)]
        return shares + self._begin_group(left, load) if self._may_begin(load) else shares

    def _may_begin(self, load: Load) -> bool:
        if self._rest is not None or self._num_passes >= MAX_PASSES:
            return False
        return max(load.num_rows / self._max_rows, self._peak_bytes(load) / self.ceiling_bytes) < 1 - MAX_UNUSED

    def _begin_group(self, candidates: Iterable[Waiting[Share[T]]], load: Load) -> list[Share[T]]:
        """A part of the first group that has one that suits; its rest comes next."""
        for waiting in candidates:
            if num_rows := self._num_suiting(waiting.what, load):
                begun, self._rest = waiting.what.cut(num_rows)
                self._window.remove([waiting])
                return [begun]
        return []

    def _num_suiting(self, share: Share[T], load: Load) -> int:
        """How many of its rows, but not all of them, suit a batch with `load`."""
        counts = range(len(share.rows) - 1, 0, -1)
        return next((count for count in counts if self._suits(load.plus(share.cut(count)[0].load))), 0)

    def _split_evenly(self, shares: Sequence[Share[T]]) -> Iterable[Sequence[Share[T]]]:
        """Cut so that the larger part is as small as it can be."""
        if len(shares) == 1:
            return [[part] for part in shares[0].cut(len(shares[0].rows) // 2)]
        cuts = ((shares[:place], shares[place:]) for place in range(1, len(shares)))
        return min(
            cuts, key=lambda parts: max(self._peak_bytes(total_load(share.load for share in part)) for part in parts)
        )

    def _make_batch(self, shares: Sequence[Share[T]]) -> PlannedBatch[T]:
        load = total_load(share.load for share in shares)
        num_bytes = self._peak_bytes(load)
        return PlannedBatch(
            shares=tuple(sorted(shares, key=lambda share: share.load.length)),
            load=load,
            num_bytes=num_bytes,
            num_new_tokens=self._lengths.expected,
            too_large=load.num_rows == 1 and num_bytes > self.budget_bytes,
        )

    def _suits(self, load: Load) -> bool:
        num_padding_tokens = load.num_padded_tokens - load.num_tokens - FREE_PADDING_TOKENS * load.num_rows
        return num_padding_tokens <= MAX_PADDING * load.num_padded_tokens and self._fits(load)

    def _fits(self, load: Load) -> bool:
        return load.num_rows <= self._max_rows and self._peak_bytes(load) <= self.ceiling_bytes

    def _peak_bytes(self, load: Load) -> int:
        return self._footprint.peak_bytes(load, self._lengths.expected)
