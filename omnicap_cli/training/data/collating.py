"""Examples side by side and one after the other, as one forward pass takes them.

Samples that share a row are kept apart by their lengths, or by their positions alone: those of text begin anew with
each, from which transformers makes a mask. It does so only where there is neither a mask nor a cache. What fills a row
up comes last, where nothing before it can see it, and is not learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omnicap_cli.core.tokens.sequences import IGNORED
from omnicap_cli.training.attention import lengths_of
from omnicap_cli.training.data.examples import Example, Patches, join_patches

Row = Sequence[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """What is in a batch: real tokens and supervised ones, room for tokens, and samples.

    `num_skipped` samples are left out as their media are missing, `num_uncuttable` as no text could be cut off them.
    """

    num_tokens: int
    num_supervised_tokens: int
    num_places: int
    num_patches: int
    sample_ids: tuple[str, ...]
    num_skipped: int = 0
    num_uncuttable: int = 0

    @property
    def num_samples(self) -> int:
        """Those that are in it."""
        return len(self.sample_ids)


def collate(
    rows: Sequence[Row], *, pad_token_id: int, varlen: bool = False, all_logits: bool = False
) -> dict[str, Any]:
    """The arguments of a Qwen-VL's forward pass: `input_ids` of shape (num_rows, longest) and what belongs to them.

    `position_ids` have shape (4, num_rows, longest): text, time, height, width. `labels` are there for the model to
    return a loss, `shift_labels` what it compares: for each place the next token. Only the `logits_to_keep` are
    computed, unless `all_logits`. With `varlen` all is one row, and `lengths_of` its samples are given.
    """
    if varlen:
        rows = [[example for row in rows for example in row]]
    longest = max(sum(map(len, row)) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    shift_labels = torch.full_like(input_ids, IGNORED)
    position_ids = torch.zeros(4, len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        end = 0
        for example in row:
            start, end = end, end + len(example)
            input_ids[number, start:end] = example.input_ids
            shift_labels[number, start : end - 1] = example.labels[1:]  # the last token has no next one
            position_ids[:, number, start:end] = example.positions
        if end < longest:  # goes on from the last sample, so that a single one needs no mask
            position_ids[:, number, end:] = position_ids[0, number, end - 1] + torch.arange(1, longest - end + 1)
    batch: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
    batch["labels"] = shift_labels
    if not all_logits:
        learnt = (shift_labels >= 0).any(dim=0).nonzero()[:, 0]
        # one at least, or the model would return the logits of all
        batch["logits_to_keep"] = learnt = learnt if len(learnt) else torch.zeros(1, dtype=torch.long)
        shift_labels = shift_labels[:, learnt]
    batch["shift_labels"] = shift_labels
    batch |= _patches([example for row in rows for example in row])
    if varlen:
        batch |= lengths_of([len(example) for example in rows[0]])
    return batch


def _patches(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Pictures and clips in the order of their places."""
    inputs: dict[str, torch.Tensor] = {}
    for names, patches in (
        (("pixel_values", "image_grid_thw"), join_patches([each.images for each in examples if each.images])),
        (("pixel_values_videos", "video_grid_thw"), join_patches([each.clips for each in examples if each.clips])),
    ):
        if patches:
            inputs |= dict(zip(names, patches, strict=True))
    return inputs


def has_pictures(rows: Sequence[Row]) -> bool:
    """Whether the vision tower has anything to do."""
    return any(example.images or example.clips for row in rows for example in row)


def stats_of(rows: Sequence[Row], *, num_places: int, num_skipped: int = 0, num_uncuttable: int = 0) -> BatchStats:
    """Of a batch of `rows` that has so many places for tokens."""
    examples = [example for row in rows for example in row if not example.is_blank]
    patches: list[Patches] = [each for example in examples for each in (example.images, example.clips) if each]
    return BatchStats(
        num_tokens=sum(map(len, examples)),
        num_supervised_tokens=sum(int((example.labels[1:] >= 0).sum()) for example in examples),
        num_places=num_places,
        num_patches=sum(len(each.pixel_values) for each in patches),
        sample_ids=tuple(example.id for example in examples),
        num_skipped=num_skipped,
        num_uncuttable=num_uncuttable,
    )
