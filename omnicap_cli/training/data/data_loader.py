"""Batches for one process, made of samples as they are needed, in worker processes if there are any.

What is wrong with a sample travels as a value, so that the process that trains says it in one line.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from omnicap_cli.core.files.words import without_remedy
from omnicap_cli.errors import ItemError, OmnicapError
from omnicap_cli.training.data.batch_plan import BatchPlan
from omnicap_cli.training.data.collating import collate, has_pictures, stats_of
from omnicap_cli.training.data.corpus import Corpus
from omnicap_cli.training.data.examples import Example, ExampleReader, UncuttableError
from omnicap_cli.training.data.record_index import DataError

FAILURE: Final = "failure"  # stands alone in a batch that couldn't be made
STATS: Final = "stats"
_SMALL_BYTES: Final = 1 << 16  # what a pipe holds
_LEAVE: Final = signal.SIGUSR1
_PATIENCE_SECONDS: Final = 2.0  # for a worker that is in the middle of a picture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchMaker:
    """Makes batches of samples. With `skip_missing` a picture that can't be had costs its sample, else the run."""

    corpus: Corpus
    reader: ExampleReader
    pad_token_id: int
    varlen: bool = False
    all_logits: bool = False
    skip_missing: bool = False

    def make(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What the model takes for rows of samples, and STATS; or FAILURE alone."""
        try:
            return self._make_batch(rows)
        except OmnicapError as error:
            return {FAILURE: error}

    def _make_batch(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        read = [[self._example(sample) for sample in row] for row in rows]
        examples = [[each for each in row if isinstance(each, Example)] for row in read]
        examples = [row for row in examples if row]
        left_out = [each for row in read for each in row if isinstance(each, OmnicapError)]
        num_uncuttable = sum(isinstance(each, UncuttableError) for each in left_out)
        if not has_pictures(examples):
            examples = [[*examples[0], self.reader.blank()], *examples[1:]] if examples else [[self.reader.blank()]]
        batch = collate(examples, pad_token_id=self.pad_token_id, varlen=self.varlen, all_logits=self.all_logits)
        stats = stats_of(
            examples,
            num_places=batch["input_ids"].numel(),
            num_skipped=len(left_out) - num_uncuttable,
            num_uncuttable=num_uncuttable,
        )
        return batch | {STATS: stats}

    def _example(self, sample: int) -> Example | UncuttableError | ItemError:
        """The sample, or why it is left out."""
        record = self.corpus.record(sample)
        try:
            return self.reader.read(record, max_tokens=self.corpus.max_tokens)
        except UncuttableError as error:
            return error
        except ItemError as error:
            if self.skip_missing:
                return error
            hint = "Restore it, or set data.missing_media to skip: then such samples are left out, and counted."
            raise DataError(f"{record.get('id')}: {without_remedy(error.message)}", hint=hint) from error


class RankBatches(Dataset[dict[str, Any]]):
    """Every `num_processes`-th batch of a plan, from the one of this process on; the last may hold nothing to learn."""

    def __init__(self, maker: BatchMaker, plan: BatchPlan, *, process: int, num_processes: int) -> None:
        self._maker, self._plan = maker, plan
        self._process, self._num_processes = process, num_processes

    def __len__(self) -> int:
        return -(-self._plan.num_batches // self._num_processes)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._maker.make(self._plan.rows(number * self._num_processes + self._process))

    def loader(self, *, num_workers: int) -> DataLoader[dict[str, Any]]:
        """In the order of the plan, one batch at a time, to be taken by `as_tensors`.

        It draws nothing from the numbers that dropout draws from.
        """
        return DataLoader(
            self,
            batch_size=1,
            collate_fn=_only,
            num_workers=num_workers,
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_prepare_worker if num_workers else None,
        )


def _only(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one of them, to be handed over by a worker: to share memory costs more than to copy a few bytes."""
    tensors = {name: each for name, each in batches[0].items() if torch.is_tensor(each)}
    return batches[0] | {name: each.numpy() for name, each in tensors.items() if each.nbytes <= _SMALL_BYTES}


def as_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """What a loader gave, as a model takes it."""
    return {name: torch.from_numpy(each) if isinstance(each, np.ndarray) else each for name, each in batch.items()}


def _prepare_worker(_: int) -> None:
    """In a worker process: leave the cores to the training, and signals to the process that it works for.

    Launchers and terminals send them to the whole group, and a run without workers couldn't go on to its checkpoint.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(_LEAVE, lambda *_: os._exit(0))  # torch raises an error for a worker that ends otherwise


@contextlib.contextmanager
def ending_workers() -> Iterator[None]:
    """After the block no worker is left that was started in it: Python would wait for them, and they ignore SIGTERM."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        workers = set(multiprocessing.active_children()) - before
        for worker in workers:
            os.kill(worker.pid or 0, _LEAVE)
        for worker in workers:
            worker.join(_PATIENCE_SECONDS)
            worker.kill()
