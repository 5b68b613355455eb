"""The first pass of a batch through a model: prompts of similar length together, a limited number of tokens at once.

So little is computed for padding, and what a pass needs for its activations stays small beside the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from omnicap_cli.engines.huggingface.kv_cache import can_join_caches, join_caches, roomy_cache

EncodedOfRows = Callable[[Sequence[int]], Any]  # what was encoded of the visuals of some rows, None without any
_MAX_TOKENS: Final = 8192  # of a pass, padding included: enough to keep any device busy


def prefill(
    model: Any, input_ids: torch.Tensor, model_kwargs: dict[str, Any], encoded: EncodedOfRows | None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The scores of the next token, shape (rows, tokens known), and what the following passes take.

    `input_ids`, shape (rows, length), is padded on the left. Without `encoded` all rows are one pass, with whatever
    `model_kwargs` hold of theirs.
    """
    cache = model_kwargs["past_key_values"]
    mask = model_kwargs.get("attention_mask")
    lengths = [input_ids.shape[1]] * len(input_ids) if mask is None else mask.sum(dim=-1).tolist()
    packs = _packs_of_rows(lengths) if encoded is not None and can_join_caches(cache) else [list(range(len(lengths)))]
    places = [torch.tensor(pack, device=input_ids.device) for pack in packs]
    scores, caches = [], [cache, *(roomy_cache(model) for _ in packs[1:])]
    for pack, place, part_cache in zip(packs, places, caches, strict=True):
        length = max(lengths[row] for row in pack)
        kwargs = _kwargs_of_rows(model_kwargs, place, length) | {"past_key_values": part_cache}
        if encoded is not None and (of_pack := encoded(pack)) is not None:
            kwargs["mm_encoder_outputs"] = {"image": of_pack}
        inputs = model.prepare_inputs_for_generation(input_ids[place, -length:], is_first_iteration=True, **kwargs)
        outputs = model(**inputs, return_dict=True)
        scores.append(outputs.logits[:, -1].float())
    outputs["past_key_values"] = caches[0] if len(caches) == 1 else join_caches(caches, places)
    model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
    model_kwargs.pop("mm_encoder_outputs", None)  # they are in the cache now
    order = torch.cat(places).argsort()
    return torch.cat(scores)[order], model_kwargs


def _packs_of_rows(lengths: Sequence[int]) -> list[list[int]]:
    """The rows, the shortest first, in packs of at most _MAX_TOKENS; a longer row is a pack of its own."""
    packs: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if packs[-1] and (len(packs[-1]) + 1) * lengths[row] > _MAX_TOKENS:
            packs.append([])
        packs[-1].append(row)
    return [sorted(pack) for pack in packs]


def _kwargs_of_rows(model_kwargs: dict[str, Any], place: torch.Tensor, length: int) -> dict[str, Any]:
    """What belongs to some rows, without the padding that they all share."""
    part = take_rows(model_kwargs, place)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids"):
        if part.get(name) is not None:
            part[name] = part[name][..., -length:]
    if part.get("attention_mask") is not None and bool(part["attention_mask"].all()):
        part["attention_mask"] = None  # which models compute faster
    return part


def take_rows(model_kwargs: dict[str, Any], place: torch.Tensor) -> dict[str, Any]:
    """The same of some rows only, but for their cache."""
    part = dict(model_kwargs)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids"):
        if part.get(name) is not None:  # (rows, length), or (axes, rows, length) for positions
            part[name] = part[name].index_select(-2, place)
    return part
