"""Attention over packed samples: each looks at itself alone, and costs what it costs alone.

With a mask for the whole row, sdpa would compute all pairs of tokens, and throw most of them away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BY_SAMPLE: Final = "sdpa_by_sample"


def attend_by_sample(model: Any) -> None:
    """Let sdpa work on one sample of a row after the other, by the `sample_lengths` of a batch."""
    text = model.config.get_text_config()
    slides = "sliding_attention" in (getattr(text, "layer_types", None) or ())  # then it takes a mask to say how far
    if text._attn_implementation == "sdpa" and not slides:
        model.set_attn_implementation({"text_config": BY_SAMPLE})


def takes_lengths(config: Any) -> bool:
    """Whether samples of a row are kept apart by their lengths, else by a mask that comes of their positions."""
    return config.get_text_config()._attn_implementation in (BY_SAMPLE, "flash_attention_2")


def lengths_of(lengths: Sequence[int]) -> dict[str, Any]:
    """What tells a model how long the samples of a row are, all of them; flash-attention has its own names for it."""
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "sample_lengths": tuple(lengths),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def _by_sample(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sample_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Of tensors of shape (1, num_heads, num_tokens, head_dim); without lengths the same as sdpa."""
    if sample_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = (each.split_with_sizes(tuple(sample_lengths), dim=2) for each in (query, key, value))
    outputs = [sdpa_attention_forward(module, q, k, v, None, **kwargs)[0] for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(BY_SAMPLE, _by_sample)
