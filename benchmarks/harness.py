"""Two sides in turns, the ratio of their medians, and on what machine: what every benchmark here shares."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from omnicap_cli import __version__


@dataclass(frozen=True, slots=True)
class Side:
    """One of two things that are compared. `run` does it once."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of every turn of both sides."""

    first: list[float]
    second: list[float]

    @property
    def ratio(self) -> float:
        """Median seconds of the first side over those of the second."""
        return statistics.median(self.first) / statistics.median(self.second)


def compare(first: Side, second: Side, *, turns: int = 5, warm_up: bool = True) -> Comparison:
    """Run both sides in turns, first second, second first, so that a drift of the machine hits both."""
    if warm_up:
        first.run()
        second.run()
    times: dict[str, list[float]] = {first.name: [], second.name: []}
    for turn in range(turns):
        for side in (first, second) if turn % 2 == 0 else (second, first):
            started = time.perf_counter()
            side.run()
            times[side.name].append(time.perf_counter() - started)
    return Comparison(times[first.name], times[second.name])


def print_machine(*packages: str) -> None:
    """What the figures below were measured on and with."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"\n{platform.platform()}, {cores} cores, Python {platform.python_version()}")
    print(f"omnicap {__version__}, {versions}")


def print_row(what: str, ratio: float, wanted: str, *, details: str = "") -> None:
    """One ratio, what it should be, and the figures behind it."""
    print(f"{what:<58} {ratio:6.3f}   wanted {wanted:<10} {details}")


def seconds(values: list[float]) -> str:
    """The median of `values`, and their range."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f}-{max(values):.3f})"
