"""How likely each of some names is as a model's answer. It knows token ids, and not what the names are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from omnicap_cli.engines.huggingface.prefill import EncodedOfRows, prefill


class NameScorer:
    """What `generate` calls to weigh `names`, each a list of token ids, as answers.

    The picture and the question pass through the model once; names of several tokens are read on from there. `shares`
    has for each row the probability of each name, of all names together (they add up to 1).
    """

    def __init__(self, names: Sequence[Sequence[int]], *, encoded: EncodedOfRows | None) -> None:
        self._names, self._encoded = names, encoded
        self.shares: list[list[float]] = []

    def __call__(self, model: Any, input_ids: torch.Tensor, **model_kwargs: Any) -> torch.Tensor:
        for name in ("logits_processor", "stopping_criteria", "generation_config"):
            del model_kwargs[name]
        scores, model_kwargs = prefill(model, input_ids, model_kwargs, self._encoded)
        first = scores.log_softmax(dim=-1)
        names = [
            first[:, name[0]] + self._score_of_rest(model, name, len(input_ids), model_kwargs) for name in self._names
        ]
        self.shares = torch.stack(names, dim=-1).softmax(dim=-1).tolist()
        return input_ids

    def _score_of_rest(
        self, model: Any, name: Sequence[int], num_rows: int, model_kwargs: dict[str, Any]
    ) -> torch.Tensor | float:
        """The log-probability of all tokens after the first, shape (rows,); the cache is left as it was."""
        if len(name) == 1:
            return 0.0
        position_ids, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
        ids = torch.tensor([list(name[:-1])] * num_rows, device=model.device)
        steps = torch.arange(len(name) - 1, device=model.device)
        cache = model_kwargs["past_key_values"]
        given: dict[str, Any] = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
        if position_ids is not None:  # they already have a place for the next token
            given["position_ids"] = position_ids[..., -1:] + steps
        if mask is not None:
            given["attention_mask"] = torch.cat([mask, mask.new_ones((num_rows, len(name) - 2))], dim=-1)
        logits = model(**given, return_dict=True).logits.float().log_softmax(dim=-1)
        cache.crop(-(len(name) - 1))
        following = torch.tensor(list(name[1:]), device=logits.device)
        scores: torch.Tensor = logits.gather(-1, following.expand(num_rows, -1).unsqueeze(-1))
        return scores.sum(dim=(-1, -2))
