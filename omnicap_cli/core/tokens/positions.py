"""Where each token of a sample stands, in text, time, height and width: the positions of the Qwen-VL family (M-RoPE).

Samples are counted on their own, so that several can share a sequence. It is arithmetic, and knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class VisualBlock(NamedTuple):
    """Visual tokens in a row, as they lie along time, height and width; `time_interval` positions between two times."""

    t: int
    h: int
    w: int
    time_interval: float = 1.0


def sample_positions(is_visual: npt.NDArray[np.bool_], blocks: Iterable[VisualBlock]) -> npt.NDArray[np.int64]:
    """Positions of one sample, shape (4, num_tokens): of text, which counts all tokens, of time, height and width.

    `is_visual`, shape (num_tokens,), tells which tokens are those of `blocks`, in their order. Raises ValueError where
    the two don't fit. Source: `get_rope_index` of Qwen2-VL, Qwen2.5-VL and Qwen3-VL in transformers.
    """
    pieces = []
    waiting, start = iter(blocks), 0
    edges = [0, *(np.flatnonzero(is_visual[1:] != is_visual[:-1]) + 1).tolist(), len(is_visual)]
    for begin, end in zip(edges, edges[1:]):  # noqa: B905, RUF007  neighbours that are alike
        if is_visual[begin]:
            block = next(waiting, None)
            if block is None or block.t * block.h * block.w != end - begin:
                raise ValueError(f"{end - begin} visual tokens in a row, where {block} stands")
            pieces.append(_block_positions(block) + start)
            start += max(block.h, block.w)
        else:
            pieces.append(np.broadcast_to(np.arange(start, start + end - begin), (3, end - begin)))
            start += end - begin
    if next(waiting, None) is not None:
        raise ValueError("more pictures or clips than places for them")
    return np.concatenate([np.arange(len(is_visual))[None], np.concatenate(pieces, axis=1)])


def _block_positions(block: VisualBlock) -> npt.NDArray[np.int64]:
    """Shape (3, num_tokens), from 0. Times are counted in 32-bit floats, as in torch."""
    times = (np.arange(block.t, dtype=np.float32) * np.float32(block.time_interval)).astype(np.int64)
    grid = np.meshgrid(times, np.arange(block.h), np.arange(block.w), indexing="ij")
    return np.stack([axis.ravel() for axis in grid])
