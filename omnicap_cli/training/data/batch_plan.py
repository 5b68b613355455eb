"""Which samples share a row, which rows a batch, and in which order batches come, for all epochs and processes.

It is known before the first step, from lengths alone: so steps can be counted, and a run that goes on later skips
what was seen without reading it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from omnicap_cli.training.config.sections import PackingConfig
from omnicap_cli.training.data.packing import WINDOW, pack, random_order

_GROUP_BATCHES: Final = (
    50  # of which the samples are sorted by length together; the Trainer of transformers has as many
)

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchPlan:
    """Batch b is the rows `batch_starts[b]:batch_starts[b + 1]`, row r the `samples[row_starts[r]:row_starts[r + 1]]`.

    The first and the last of `batch_starts` and `row_starts` are 0 and the number of all. An epoch's batches come
    together, `epoch_starts` says where.
    """

    samples: Numbers
    row_starts: Numbers
    batch_starts: Numbers
    epoch_starts: Numbers

    @property
    def num_batches(self) -> int:
        """All epochs and all processes together."""
        return len(self.batch_starts) - 1

    @property
    def digest(self) -> str:
        """Tells this plan from every other."""
        digest = hashlib.sha256()
        for numbers in (self.samples, self.row_starts, self.batch_starts):
            digest.update(numbers.astype(np.int64).tobytes())
        return digest.hexdigest()

    def epoch_of(self, batch: int) -> float:
        """How many epochs are over before a batch: 1.5 in the middle of the second."""
        epoch = int(np.searchsorted(self.epoch_starts, batch, side="right")) - 1
        if epoch + 1 == len(self.epoch_starts):
            return float(epoch)
        start, end = self.epoch_starts[epoch], self.epoch_starts[epoch + 1]
        return epoch + float(batch - start) / float(end - start)

    def rows(self, batch: int) -> list[list[int]]:
        """The samples of a batch; none of one past the end, which fills the last step up."""
        if batch >= self.num_batches:
            return []
        first, end = self.batch_starts[batch], self.batch_starts[batch + 1]
        return [self.samples[self.row_starts[row] : self.row_starts[row + 1]].tolist() for row in range(first, end)]


def plan_batches(
    lengths: Numbers,
    patches: Numbers,
    *,
    packing: PackingConfig | None,
    batch_size: int,
    num_epochs: int,
    num_processes: int,
    seed: int,
    max_batches: int | None = None,
) -> BatchPlan:
    """Plan `num_epochs` over samples of `lengths` and `patches`, (num_samples,), or as many as `max_batches` need.

    There is one sample at least. Every epoch has each sample once, and its own order. `batch_size` counts packs, or
    samples without `packing`.
    """
    epochs: list[tuple[Numbers, Numbers]] = []
    num_batches = 0
    while len(epochs) < num_epochs if max_batches is None else num_batches < max_batches:
        seed_of_epoch = int(np.random.SeedSequence([seed, len(epochs)]).generate_state(1)[0])
        samples, row_starts = _rows_of_epoch(lengths, patches, packing, batch_size * num_processes, seed_of_epoch)
        epochs.append((samples, row_starts))
        num_batches += -(-(len(row_starts) - 1) // batch_size)
    return _join_epochs(epochs, batch_size, max_batches)


def length_groups(lengths: Numbers, group_size: int, seed: int) -> Numbers:
    """A shuffled order of samples in which `group_size` neighbours, from the first on, are about equally long.

    The group of the longest comes first: what is going to run out of memory does so at once.
    """
    order = random_order(len(lengths), np.random.PCG64(seed))
    span = group_size * _GROUP_BATCHES
    # the last has a whole group at least: what is left over in the end are the shortest of it
    chunks = np.split(order, range(span, len(order) - group_size + 1, span))
    order = np.concatenate([chunk[np.argsort(-lengths[chunk], kind="stable")] for chunk in chunks])
    num_whole = len(order) // group_size
    groups = order[: num_whole * group_size].reshape(num_whole, group_size)
    places = random_order(num_whole, np.random.PCG64(seed + 1))
    if num_whole:
        longest = int(np.argmax(lengths[groups].max(axis=1)))
        places = np.concatenate([[longest], places[places != longest]])
    return np.concatenate([groups[places].ravel(), order[num_whole * group_size :]])


def _rows_of_epoch(
    lengths: Numbers, patches: Numbers, packing: PackingConfig | None, group_size: int, seed: int
) -> tuple[Numbers, Numbers]:
    """The samples of an epoch, and where rows of them begin."""
    if packing is None:
        return length_groups(lengths, group_size, seed), np.arange(len(lengths) + 1)
    packs = pack(
        lengths,
        max_tokens=packing.max_tokens,
        patches=None if packing.max_patches is None else patches,
        max_patches=packing.max_patches,
        window=packing.window or WINDOW,
        seed=seed,
    )
    return packs.samples, packs.starts


def _join_epochs(epochs: Sequence[tuple[Numbers, Numbers]], batch_size: int, max_batches: int | None) -> BatchPlan:
    row_starts, batch_starts, epoch_starts = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [0]
    num_samples = num_rows = 0
    for samples, starts in epochs:
        rows = len(starts) - 1
        row_starts.append(starts[1:] + num_samples)
        batch_starts.append(np.append(np.arange(batch_size, rows, batch_size), rows) + num_rows)
        num_samples, num_rows = num_samples + len(samples), num_rows + rows
        epoch_starts.append(epoch_starts[-1] + len(batch_starts[-1]))
    return BatchPlan(
        samples=np.concatenate([samples for samples, _ in epochs]),
        row_starts=np.concatenate(row_starts),
        batch_starts=np.concatenate(batch_starts)[: None if max_batches is None else max_batches + 1],
        epoch_starts=np.array(epoch_starts),
    )
