"""A bound that tells how good a packing is, for tests and benchmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def lower_bound(sizes: npt.NDArray[np.int64], capacity: int) -> int:
    """A number of packs that no packing of `sizes`, each 0 to `capacity`, gets below.

    Two of more than half a pack never share one, and what such a sample leaves free is of no use to those that are
    larger: bound L2 of Martello and Toth, "Lower bounds and reduction procedures for the bin packing problem" (1990).
    """
    counts = np.bincount(sizes, minlength=capacity + 1)
    num_up_to = np.cumsum(counts)
    total_up_to = np.cumsum(counts * np.arange(len(counts)))
    half = capacity // 2
    smallest = np.arange(half + 1)  # of the samples that count; no smaller one does
    total_small = total_up_to[half] - total_up_to[smallest] + smallest * counts[smallest]
    num_sharing = num_up_to[capacity - smallest] - num_up_to[half]  # over half a pack, and leave room for the smallest
    total_free = num_sharing * capacity - (total_up_to[capacity - smallest] - total_up_to[half])
    num_more = -((total_free - total_small) // capacity)
    return int(num_up_to[-1] - num_up_to[half] + max(num_more.max(), 0))
