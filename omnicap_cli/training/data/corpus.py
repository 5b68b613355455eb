"""All samples of a training run, from several sets in their proportions, by number. It knows lengths, and no pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from omnicap_cli.training.config.mixture import DataSet, choose_records, num_chosen
from omnicap_cli.training.data.record_index import DataError, RecordIndex

TooLong = Literal["refuse", "drop", "truncate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCounts:
    """What a set gives to an epoch. Of `num_too_long` records some are dropped or cut, as was asked."""

    label: str
    ratio: float
    num_records: int
    num_samples: int
    num_tokens: int
    num_too_long: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """The samples of an epoch: arrays of shape (num_samples,).

    `set_numbers` and `record_numbers` tell where a sample is, `lengths` how long it is when it is trained on.
    """

    indices: Sequence[RecordIndex]
    set_numbers: npt.NDArray[np.int16]
    record_numbers: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    num_visual_tokens: npt.NDArray[np.int64]
    counts: Sequence[SetCounts]
    max_tokens: int

    @classmethod
    def open(cls, sets: Sequence[DataSet], cache: Path, *, max_tokens: int, too_long: TooLong, seed: int) -> Corpus:
        """The samples of `sets`, none longer than `max_tokens`: longer ones are refused, dropped, or to be cut.

        Raises DataError where a set can't be used, holds a sample that is too long, or nothing is left.
        """
        indices = [RecordIndex.open(each.path, cache) for each in sets]
        picks = [_pick(each, index, max_tokens, too_long, seed) for each, index in zip(sets, indices, strict=True)]
        numbers = [numbers for numbers, _ in picks]
        if not sum(map(len, numbers)):
            raise DataError(f"there are no samples in {', '.join(each.label for each in sets)}")
        pairs = list(zip(indices, numbers, strict=True))
        return cls(
            indices=indices,
            set_numbers=np.repeat(np.arange(len(sets), dtype=np.int16), [len(each) for each in numbers]),
            record_numbers=np.concatenate(numbers),
            lengths=np.concatenate([np.minimum(index.sequence_lengths[each], max_tokens) for index, each in pairs]),
            num_visual_tokens=np.concatenate([index.num_visual_tokens[each] for index, each in pairs]),
            counts=[counts for _, counts in picks],
            max_tokens=max_tokens,
        )

    def __len__(self) -> int:
        return len(self.record_numbers)

    @property
    def digest(self) -> str:
        """Tells these samples from all others, by the content of their records."""
        digest = hashlib.sha256("\n".join(index.digest for index in self.indices).encode())
        for numbers in (self.set_numbers, self.record_numbers):
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    def record(self, sample: int) -> dict[str, Any]:
        """The record of a sample."""
        index = self.indices[int(self.set_numbers[sample])]
        return index.record(int(self.record_numbers[sample]))

    def check_patches(self, patches: npt.NDArray[np.int64], max_patches: int) -> None:
        """Raise DataError where one of the samples, which have so many `patches`, has more than a pack takes."""
        if not (is_large := patches > max_patches).any():
            return
        first = int(is_large.argmax())
        what = f"{is_large.sum():,} samples have more patches than packing.max_patches {max_patches:,}"
        name = self.record(first).get("id")
        hint = "Raise it, or lower data.max_pixels and count again."
        raise DataError(f"{what}, as {name!r} with {patches[first]:,}", hint=hint)


def _pick(
    each: DataSet, index: RecordIndex, max_tokens: int, too_long: TooLong, seed: int
) -> tuple[npt.NDArray[np.int64], SetCounts]:
    """The records that an epoch takes of a set. The part is drawn first, so that limits don't change it."""
    numbers = choose_records(len(index), each.ratio, seed, each.label)
    if len(numbers) != num_chosen(len(index), each.ratio):
        raise AssertionError(f"{each.label}: {len(numbers)} samples are not {each.ratio} of {len(index)}")
    is_long = index.sequence_lengths[numbers] > max_tokens
    if too_long == "refuse" and is_long.any():
        first = int(numbers[is_long.argmax()])
        name = index.record(first).get("id")
        what = f"{each.label}: {is_long.sum():,} of {len(numbers):,} samples are longer than data.max_length"
        hint = "Raise data.max_length, or set data.too_long to drop or truncate."
        raise DataError(f"{what} {max_tokens:,}, as {name!r} with {index.sequence_lengths[first]:,} tokens", hint=hint)
    # pictures can't be cut: with as many visual tokens as there is room nothing to learn would be left
    is_lost = is_long if too_long == "drop" else is_long & (index.num_visual_tokens[numbers] >= max_tokens)
    kept = numbers[~is_lost]
    counts = SetCounts(
        label=each.label,
        ratio=each.ratio,
        num_records=len(index),
        num_samples=len(kept),
        num_tokens=int(np.minimum(index.sequence_lengths[kept], max_tokens).sum(dtype=np.int64)),
        num_too_long=int(is_long.sum()),
    )
    return kept, counts
