"""Devices for tests of batches: what they take is computed here from the shapes of the published 7B, by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from omnicap_cli.core.batching.footprint import ModelShape
from omnicap_cli.core.batching.planner import PlannedBatch, Planner, RowGroup

QWEN2_VL_7B: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
        "patch_size": 14,
        "temporal_patch_size": 2,
    },
}
SHAPE = ModelShape.from_config(QWEN2_VL_7B, element_bytes=2, attention="sdpa")
GB = 10**9
WEIGHTS_BYTES, WEIGHTS_4BIT_BYTES = int(16.6 * GB), int(5.9 * GB)
PATCH_BYTES = 1176 * 6 + (1280 + 2 * 80) * 4 + 5 * 1280 * 2 + 6 * 1280 * 4  # pixels, positions, and in attention


def budget_of(device_gb: int) -> int:
    """What weights in bf16, or of four bits on a small device, leave of it."""
    return device_gb * GB - (WEIGHTS_BYTES if device_gb > 16 else WEIGHTS_4BIT_BYTES)


def planner_of(device_gb: float, **options: Any) -> Planner[int]:
    defaults = {"budget_bytes": budget_of(int(device_gb)), "max_new_tokens": 2048}
    return Planner(SHAPE, **(defaults | options))


def picture_of(number: int, num_visual_tokens: int, *prompt_tokens: int) -> RowGroup[int]:
    tokens = prompt_tokens or (100,)
    return RowGroup(
        what=number, num_patches=(4 * num_visual_tokens,), num_visual_tokens=num_visual_tokens, prompt_tokens=tokens
    )


def mixed_pictures(number: int, *, prompts: tuple[int, ...] = (1, 8), seed: int = 1) -> Iterator[RowGroup[int]]:
    """From thumbnails of 200 pixels to A4 at 300 dpi, sides by their logarithm, shrunk to 6,400 tokens of 28 x 28."""
    source = random.Random(seed)
    for each in range(number):
        width, height = (math.exp(source.uniform(math.log(200), math.log(side))) for side in (2480, 3508))
        scale = min(1.0, math.sqrt(6400 * 28 * 28 / (width * height)))
        columns, rows = (max(1, int(side * scale / 28)) for side in (width, height))
        texts = [source.randint(40, 150) for _ in range(source.choice(prompts))]
        yield picture_of(each, columns * rows, *texts)


def run_all(planner: Planner[int], pictures: Iterator[RowGroup[int]] | list[RowGroup[int]]) -> list[PlannedBatch[int]]:
    """As an engine does: batches as soon as they are there, then what is left."""
    batches = []
    for picture in pictures:
        planner.add(picture)
        while batch := planner.next_batch():
            batches.append(batch)
    while batch := planner.next_batch(flush=True):
        batches.append(batch)
    return batches


def rows_of(batch: PlannedBatch[int]) -> list[tuple[int, int]]:
    return [(share.group.what, row) for share in batch.shares for row in share.rows]


def simulated_peak(batch: PlannedBatch[int], num_new_tokens: int) -> int:
    """The bytes alive at the largest moment of a run through Qwen2-VL-7B in bf16, tensor by tensor."""
    pictures = [share.group for share in batch.shares]
    lengths = [
        share.group.num_visual_tokens + share.group.prompt_tokens[row] for share in batch.shares for row in share.rows
    ]
    num_rows, length = len(lengths), max(lengths)
    embeddings = sum(picture.num_visual_tokens for picture in pictures) * 3584 * 2
    num_patches = sum(sum(picture.num_patches) for picture in pictures)
    pixels = num_patches * 1176 * (4 + 2)
    hidden = num_patches * 1280
    moments = [
        pixels + hidden * 2 * 2 + 3 * hidden * 2 + 6 * hidden * 4,  # queries and keys turned in fp32
        pixels + 3 * hidden * 2 + 3 * 4 * hidden * 2,  # in the MLP
    ]
    own_embeddings = sum(len(share.rows) * share.group.num_visual_tokens for share in batch.shares) * 3584 * 2
    mask = num_rows * length * length if num_rows > 1 else 0
    cache = 0
    for _ in range(28):
        cache += num_rows * length * 2 * 4 * 128 * 2
        mlp = num_rows * length * (4 * 3584 + 3 * 18944) * 2
        moments.append(own_embeddings + mask + cache + mlp)
    for step in (1, num_new_tokens):
        grown = num_rows * (length + step) * 57_344
        copied = num_rows * (length + step) * 4 * 128 * 2  # one layer's keys
        moments.append(grown + copied + num_rows * 152_064 * (2 + 4))
    return embeddings + max(moments)


def full_batch(planner: Planner[int], num_pictures: int = 400, *prompt_tokens: int) -> PlannedBatch[int]:
    for number in range(num_pictures):
        planner.add(picture_of(number, 600 + number % 50, *prompt_tokens))
    batch = planner.next_batch(flush=True)
    assert batch is not None
    return batch
