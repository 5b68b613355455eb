"""What went through a model between two lines of the log: tokens, room for tokens, samples, and where the time went."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from omnicap_cli.training.data.collating import BatchStats
from omnicap_cli.training.data.record_index import DataError

_MANY = 10  # so many samples are no accident
_NAMES = (
    "num_tokens",
    "num_supervised_tokens",
    "num_places",
    "num_patches",
    "num_samples",
    "num_skipped",
    "num_uncuttable",
)


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts in one process. `gather` sums over all of them; `totals` are those of all times and processes."""

    totals: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    wait_seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, stats: BatchStats) -> None:
        """Take in one batch."""
        self.counts.update({name: getattr(stats, name) for name in _NAMES})

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """For what is no training: its time doesn't count."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.started += time.perf_counter() - begun

    def drain(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """What happened since the last time, in all processes, by the names of the log; it begins anew.

        `fill` is the share of places that hold a token, `data_wait` that of the time in which this process waited for
        data.
        """
        seconds = max(time.perf_counter() - self.started, 1e-9)
        summed = gather(torch.tensor([float(self.counts[name]) for name in _NAMES])[None]).sum(0).tolist()
        total = dict(zip(_NAMES, summed, strict=True))
        values = {
            "tokens_per_second": total["num_tokens"] / seconds,
            "samples_per_second": total["num_samples"] / seconds,
            "fill": total["num_tokens"] / max(total["num_places"], 1),
            "supervised_tokens": total["num_supervised_tokens"],
            "data_wait": self.wait_seconds / seconds,
        }
        if num_left_out := total["num_skipped"] + total["num_uncuttable"]:
            values["skipped_samples"] = num_left_out
        self.totals.update({name: int(value) for name, value in total.items()})
        self.counts, self.wait_seconds, self.started = Counter(), 0.0, time.perf_counter()
        return values

    def check_skipped(self) -> None:
        """Raise DataError where most of the media can't be read: then a place is wrong, and not a file."""
        num_skipped, num_samples = self.totals["num_skipped"], self.totals["num_samples"]
        if num_skipped >= _MANY and num_skipped > num_samples:
            what = f"{num_skipped:,} of {num_samples + num_skipped:,} samples so far had to be skipped"
            raise DataError(what, hint="Their media can't be read: look at data.image_root, and whether it is there.")
