"""Which samples share a sequence: best-fit decreasing over large windows, the same packs for the same seed everywhere.

It knows lengths and nothing of what has them; the caller drops or refuses samples that are too long before.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

WINDOW: Final = 1_000_000  # samples; they take about 100 MB while they are packed, 200 with patches that bind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packs:
    """Samples, pack after pack: pack `k` is `samples[starts[k]:starts[k + 1]]`, which `packs[k]` says shorter.

    `samples`, shape (num_samples,), and `starts`, shape (num_packs + 1,), are int64.
    """

    samples: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        number = range(len(self))[index]
        return self.samples[self.starts[number] : self.starts[number + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return map(self.__getitem__, range(len(self)))


def pack(
    lengths: npt.NDArray[np.int64],
    *,
    max_tokens: int,
    patches: npt.NDArray[np.int64] | None = None,
    max_patches: int | None = None,
    window: int = WINDOW,
    seed: int,
) -> Packs:
    """Put every sample into one pack of at most `max_tokens` tokens and `max_patches` visual patches.

    `lengths`, in tokens, and `patches` have shape (num_samples,); without one of `patches` and `max_patches` patches do
    not count. Samples are shuffled first, at least `window` of them are packed together, or all where there are fewer,
    and then the packs are shuffled; `seed`, 0 or more, decides how. Raises ValueError for a sample that fits nowhere.
    """
    if window < 1:
        raise ValueError(f"a window of {window} samples")
    if patches is None or max_patches is None:
        patches, max_patches = np.zeros_like(lengths), 0
    _check_sizes("tokens", lengths, at_least=1, at_most=max_tokens)
    _check_sizes("patches", patches, at_least=0, at_most=max_patches)

    generator = np.random.PCG64(seed)
    order = random_order(len(lengths), generator)
    pack_of, num_packs = np.empty(len(lengths), np.int64), 0
    for run in np.array_split(order, max(len(lengths) // window, 1)):
        numbers = _pack_window(lengths[run], patches[run], max_tokens, max_patches)
        pack_of[run] = numbers + num_packs
        num_packs += int(numbers.max(initial=-1)) + 1
    pack_of = random_order(num_packs, generator)[pack_of]
    starts = np.concatenate(([0], np.cumsum(np.bincount(pack_of, minlength=num_packs))))
    return Packs(samples=np.argsort(pack_of, kind="stable"), starts=starts)


def _check_sizes(unit: str, sizes: npt.NDArray[np.int64], *, at_least: int, at_most: int) -> None:
    wrong = np.flatnonzero((sizes < at_least) | (sizes > at_most))
    if len(wrong):
        raise ValueError(f"sample {wrong[0]} has {sizes[wrong[0]]} {unit}, not {at_least} to {at_most}")


def random_order(num: int, generator: np.random.PCG64) -> npt.NDArray[np.int64]:
    """The numbers below `num` in random order.

    By raw bits, whose stream numpy promises to keep; it may change that of `permutation` from version to version.
    """
    return np.argsort(generator.random_raw(num), kind="stable")


def _pack_window(
    lengths: npt.NDArray[np.int64], patches: npt.NDArray[np.int64], max_tokens: int, max_patches: int
) -> npt.NDArray[np.int64]:
    """The number of each sample's pack, from 0; shape (num_samples,).

    Most often tokens alone decide: that is faster, and better than to weigh patches, of which there are enough.
    """
    pack_of = _best_fit(lengths, np.zeros_like(patches), max_tokens, 0)
    if np.bincount(pack_of, weights=patches).max(initial=0) <= max_patches:  # floats, exact up to 2^53
        return pack_of
    return _best_fit(lengths, patches, max_tokens, max_patches)


def _best_fit(
    lengths: npt.NDArray[np.int64], patches: npt.NDArray[np.int64], max_tokens: int, max_patches: int
) -> npt.NDArray[np.int64]:
    """Best-fit decreasing, all samples of one size at once: the number of each sample's pack; shape (num_samples,).

    Decreasing is the sum of both shares that a sample takes of a pack, in whole numbers so that no rounding decides;
    of samples with equal shares the longer ones come first.
    """
    share = lengths.astype(np.int64) * max_patches + patches.astype(np.int64) * max_tokens
    order = np.lexsort((-lengths, -share))
    open_packs = _OpenPacks(_Room(max_tokens, max_patches))
    numbers: list[int] = []
    for size, num in _sizes(lengths[order], patches[order]):
        while num:
            room = open_packs.tightest(size)
            num_each = min(num, room.num_that_fit(size))
            chosen = open_packs.take(room, num // num_each)
            numbers += chosen * num_each
            num -= len(chosen) * num_each
            open_packs.put(_Room(room.tokens - size.tokens * num_each, room.patches - size.patches * num_each), chosen)
    pack_of = np.empty(len(order), np.int64)
    pack_of[order] = numbers
    return pack_of


def _sizes(lengths: npt.NDArray[np.int64], patches: npt.NDArray[np.int64]) -> Iterator[tuple[_Room, int]]:
    """Every size, and how many samples have it, of samples among which those of one size are neighbours."""
    changes = np.flatnonzero((np.diff(lengths, prepend=0) != 0) | (np.diff(patches, prepend=0) != 0))
    nums = np.diff(changes, append=len(lengths))
    return zip(map(_Room, lengths[changes].tolist(), patches[changes].tolist()), nums.tolist(), strict=True)


class _Room(NamedTuple):
    """What a sample takes, or what a pack has left."""

    tokens: int
    patches: int

    def num_that_fit(self, size: _Room) -> int:
        """How many samples of one size a pack with this room takes."""
        num = self.tokens // size.tokens
        return min(num, self.patches // size.patches) if size.patches else num


class _OpenPacks:
    """Packs by the room they have left, among them always an empty one.

    Leaf `t` of the tree is the most patches left in a pack with `t` tokens left, -1 without such a pack; every other
    node is the larger of the two below it. So the tightest fit is found in a time that grows with the tree's height.
    """

    def __init__(self, empty: _Room) -> None:
        self._empty = empty
        self._num_packs = 0
        self._packs: dict[_Room, list[int]] = {}
        self._patches_left: dict[int, list[int]] = {empty.tokens: [empty.patches]}  # by tokens left; sorted
        self._num_leaves = 1 << empty.tokens.bit_length()
        self._tree = [-1] * (2 * self._num_leaves)
        self._set_leaf(empty.tokens, empty.patches)

    def tightest(self, size: _Room) -> _Room:
        """The least room that is enough: the fewest tokens, and of these the fewest patches."""
        node = self._num_leaves + size.tokens
        while self._tree[node] < size.patches:
            node += 1
            node //= node & -node  # as far up as all leaves below are still those to the right
        while node < self._num_leaves:
            node *= 2
            if self._tree[node] < size.patches:
                node += 1
        tokens = node - self._num_leaves
        patches_left = self._patches_left[tokens]
        return _Room(tokens, patches_left[bisect_left(patches_left, size.patches)])

    def take(self, room: _Room, max_packs: int) -> list[int]:
        """Remove up to `max_packs` packs that have this very room."""
        if room == self._empty:
            self._num_packs += max_packs
            return list(range(self._num_packs - max_packs, self._num_packs))
        packs = self._packs[room]
        chosen = packs[-max_packs:]
        del packs[-max_packs:]
        if not packs:
            del self._packs[room]
            patches_left = self._patches_left[room.tokens]
            patches_left.remove(room.patches)
            self._set_leaf(room.tokens, patches_left[-1] if patches_left else -1)
        return chosen

    def put(self, room: _Room, packs: list[int]) -> None:
        """Add packs, none of them empty."""
        if room in self._packs:
            self._packs[room] += packs
        else:
            self._packs[room] = packs
            patches_left = self._patches_left.setdefault(room.tokens, [])
            insort(patches_left, room.patches)
            self._set_leaf(room.tokens, patches_left[-1])

    def _set_leaf(self, tokens: int, patches: int) -> None:
        node = self._num_leaves + tokens
        self._tree[node] = patches
        while node > 1:
            node //= 2
            largest = max(self._tree[2 * node], self._tree[2 * node + 1])
            if self._tree[node] == largest:
                break
            self._tree[node] = largest
