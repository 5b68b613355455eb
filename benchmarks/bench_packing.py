"""Packing a million lengths: seconds, and how many packs too many; beside the textbook's one sample at a time."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from harness import Side, compare, print_machine, print_row, seconds

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.packing_bound import lower_bound

from omnicap_cli.training.data.packing import Packs, pack

NUM_SAMPLES = 1_000_000
NUM_TEXTBOOK_SAMPLES = 20_000
NUM_PATCHES_SAMPLES = 100_000
NUM_TURNS = 5
MAX_TOKENS = (8_192, 32_768)

Sizes = npt.NDArray[np.int64]


def main() -> None:
    """Pack by tokens, in windows, by tokens and patches; then the few that a textbook's way can do in the time."""
    print_machine("numpy")
    dice = np.random.default_rng(5)
    for max_tokens in MAX_TOKENS:
        print_tokens(draw_lengths(dice, NUM_SAMPLES), max_tokens)
        print_patches(dice, max_tokens)
    print_textbook(draw_lengths(dice, NUM_TEXTBOOK_SAMPLES), MAX_TOKENS[0])


def print_tokens(lengths: Sizes, max_tokens: int) -> None:
    """All at once, and in windows of 10,000."""
    bound = lower_bound(lengths, max_tokens)
    what = f"{len(lengths):,} into {max_tokens:,} tokens"
    print_packing(what, partial(pack, lengths, max_tokens=max_tokens, seed=1), bound, ("< 2", "<= 0.2"))
    windows = partial(pack, lengths, max_tokens=max_tokens, window=10_000, seed=1)
    print_packing(what + ", 10,000 a window", windows, bound, ("(for scale)", "<= 0.2"))


def print_patches(dice: np.random.Generator, max_tokens: int) -> None:
    """Nine in ten samples have pictures, which take half to nearly all of their tokens, four patches each."""
    lengths = draw_lengths(dice, NUM_PATCHES_SAMPLES)
    max_patches = 2 * max_tokens
    wanted = 4 * lengths * dice.uniform(0.5, 0.95, len(lengths)) * (dice.random(len(lengths)) < 0.9)
    patches = np.minimum(wanted.astype(np.int64), max_patches)
    run = partial(pack, lengths, max_tokens=max_tokens, patches=patches, max_patches=max_patches, seed=1)
    what = f"{len(lengths):,} into {max_tokens:,} and {max_patches:,} patches"
    bound = max(lower_bound(lengths, max_tokens), lower_bound(patches, max_patches))
    print_packing(what, run, bound, ("(for scale)", "(for scale)"))


def print_packing(what: str, run: Callable[[], Packs], bound: int, wanted: tuple[str, str]) -> None:
    """The seconds of `run`, and its packs over a bound that they can't go below."""
    times: list[float] = []
    for _ in range(NUM_TURNS):
        started = time.perf_counter()
        packs = run()
        times.append(time.perf_counter() - started)
    print_row(f"seconds for {what}", statistics.median(times), wanted[0], details=seconds(times))
    too_many = 100 * (len(packs) / bound - 1)
    print_row("  packs more than the lower bound, in %", too_many, wanted[1], details=f"{len(packs):,} / {bound:,}")


def print_textbook(lengths: Sizes, max_tokens: int) -> None:
    """How many times as fast as one sample at a time, and that there are as many packs."""
    assert len(pack(lengths, max_tokens=max_tokens, seed=1)) == textbook(lengths, max_tokens)
    one_by_one = Side("textbook", partial(textbook, lengths, max_tokens))
    at_once = Side("pack", partial(pack, lengths, max_tokens=max_tokens, seed=1))
    result = compare(one_by_one, at_once, turns=3)
    details = f"{seconds(result.first)} / {seconds(result.second)}"
    print_row(f"textbook / pack, {len(lengths):,} into {max_tokens:,}", result.ratio, "(for scale)", details=details)


def textbook(lengths: Sizes, max_tokens: int) -> int:
    """Best-fit decreasing that looks at each pack for each sample; the number of packs."""
    left: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        room = min((each for each in left if each >= length), default=0)
        if room:
            left[left.index(room)] -= length
        else:
            left.append(max_tokens - length)
    return len(left)


def draw_lengths(dice: np.random.Generator, num: int) -> Sizes:
    """Log-normal: median 880, 99th percentile 6,700; cut at 7,000."""
    sigma = np.log(6_700 / 880) / statistics.NormalDist().inv_cdf(0.99)
    return np.clip(dice.lognormal(np.log(880), sigma, num).round().astype(np.int64), 1, 7_000)


if __name__ == "__main__":
    main()
