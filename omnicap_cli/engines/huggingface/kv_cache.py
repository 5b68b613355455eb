"""Keys and values of the tokens that a model has seen, with room for those to come. It knows no model and no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from omnicap_cli.core.batching.footprint import room_tokens


class RoomyLayer(DynamicLayer):
    """A layer of keys and values with room for tokens to come; transformers' own is copied for each token."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append to both, each of shape (rows, heads, tokens, head size), and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (
                self._copy_to_larger(self.keys, key_states, end),
                self._copy_to_larger(self.values, value_states, end),
            )
        keys, values = self._buffers
        keys[..., start:end, :], values[..., start:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def reset(self) -> None:
        super().reset()
        self._buffers = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        assert self.keys is not None
        super().batch_select_indices(indices.to(self.keys.device))  # layers of one model may be on several
        self._buffers = None

    def _copy_to_larger(self, old: torch.Tensor | None, new: torch.Tensor, num_tokens: int) -> torch.Tensor:
        num_rows, num_heads, _, head_size = new.shape
        buffer = new.new_empty(num_rows, num_heads, num_tokens + room_tokens(num_tokens), head_size)
        if old is not None and old.numel():
            buffer[..., : old.shape[-2], :] = old
        return buffer


def roomy_cache(model: Any) -> DynamicCache:
    """An empty cache for `generate`, of the kinds of layers that the model needs."""
    cache = DynamicCache(config=model.config)
    roomy: Callable[[], DynamicLayer] = RoomyLayer
    cache.layers[:] = [roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_join_caches(cache: DynamicCache) -> bool:
    """Whether caches of this kind can be put together, as those of models whose layers see all tokens."""
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def join_caches(caches: Sequence[DynamicCache], places: Sequence[torch.Tensor]) -> DynamicCache:
    """One cache of the rows of all, each at its place, padded on the left to the longest. The parts are used up."""
    whole = caches[0]
    num_tokens = max(cache.get_seq_length() for cache in caches)
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        joined = [
            _join_padded([getattr(part, name) for part in parts], places, num_tokens) for name in ("keys", "values")
        ]
        for part in parts:
            part.reset()
        parts[0].update(*joined)
    return whole


def _join_padded(parts: Sequence[torch.Tensor], places: Sequence[torch.Tensor], num_tokens: int) -> torch.Tensor:
    _, num_heads, _, head_size = parts[0].shape
    # zeros, since what is masked out is still multiplied
    whole = parts[0].new_zeros(sum(map(len, places)), num_heads, num_tokens, head_size)
    for part, place in zip(parts, places, strict=True):
        whole[place.to(part.device), :, num_tokens - part.shape[-2] :] = part
    return whole
