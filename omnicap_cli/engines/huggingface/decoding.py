"""From prompts to tokens: the loop around a model's forward passes. It knows tensors, and neither pictures nor text.

transformers' `generate` prepares positions, masks, cache and logits processors for whatever model it is, and calls a
`Decoder` in place of its own loop. This one says of each row when and why it ended as soon as it does, watches for
repetition, draws by chance for each row by itself, and takes rows that ended out of the batch.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import torch

from omnicap_cli.core.runs.records import FinishReason
from omnicap_cli.engines.generation import Ending
from omnicap_cli.engines.huggingface.prefill import EncodedOfRows, prefill, take_rows
from omnicap_cli.engines.loops import LoopDetector

_MAX_SHARE_ALIVE: Final = 7 / 8  # of the rows; with fewer, leaving the others out is worth copying the cache


class AbandonedError(Exception):
    """Nobody wants the rest of a batch."""


class GeneratedRow:
    """One text that is generated: its tokens so far, and `ending` once there will be no more.

    `dice` draws its tokens where they are drawn; `seconds` is its share of the time that its batches took.
    """

    def __init__(self, *, max_new_tokens: int, dice: random.Random | None = None) -> None:
        self.dice = dice
        self.seconds = 0.0
        self.ending: Ending | None = None
        self._max_new_tokens = max_new_tokens
        self._tokens: list[int] = []
        self._loop = LoopDetector()

    def take(self, token: int, end_token_ids: Collection[int]) -> bool:
        """Take the next token; whether it was the last."""
        if token in end_token_ids:
            return self._end_with("stop")
        self._tokens.append(token)
        if self._loop.push(token):
            self._tokens = self._loop.trim(self._tokens)
            return self._end_with("repetition")
        return len(self._tokens) == self._max_new_tokens and self._end_with("length")

    def _end_with(self, reason: FinishReason) -> bool:
        self.ending = Ending(self._tokens, reason)
        return True


class Decoder:
    """What `generate` calls to generate `rows`; `on_end` is called with the place of each row that ended."""

    def __init__(
        self,
        rows: Sequence[GeneratedRow],
        *,
        encoded: EncodedOfRows | None,
        end_token_ids: Collection[int],
        on_end: Callable[[int], None],
        is_over: threading.Event,
    ) -> None:
        self._rows, self._encoded, self._end_token_ids, self._on_end = rows, encoded, end_token_ids, on_end
        self._is_over = is_over
        self.num_steps = 0  # and so tokens of the rows that haven't ended

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,  # noqa: ARG002  these two are what the rows know already
        generation_config: Any,  # noqa: ARG002
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """The loop. `input_ids` has the shape (rows, prompt length), padded on the left; it is returned as it came."""
        started = time.monotonic()
        places = list(range(len(self._rows)))  # of the rows in the tensors: those that ended stay until it pays
        seen = _without_padding(input_ids, model_kwargs) if logits_processor else None
        scores, model_kwargs = prefill(model, input_ids, model_kwargs, self._encoded)
        while True:
            last = self._choose_tokens(scores if seen is None else logits_processor(seen, scores), places)
            del scores
            self.num_steps += 1
            self._take_tokens(last, places, started)
            if all(self._rows[place].ending for place in places):
                return input_ids
            if self._is_over.is_set():
                raise AbandonedError
            started = time.monotonic()
            if seen is not None:
                seen = torch.cat([seen, last], dim=-1)
            alive = [n for n, place in enumerate(places) if self._rows[place].ending is None]
            if len(alive) <= _MAX_SHARE_ALIVE * len(places):
                index = torch.tensor(alive, device=last.device)
                last, seen = last[index], None if seen is None else seen[index]
                model_kwargs["past_key_values"].batch_select_indices(index)
                model_kwargs = take_rows(model_kwargs, index)
                places = [places[n] for n in alive]
            inputs = model.prepare_inputs_for_generation(last, next_sequence_length=1, **model_kwargs)
            outputs = model(**inputs, return_dict=True)
            model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
            scores = outputs.logits[:, -1].float()
            del inputs, outputs

    def _choose_tokens(self, scores: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """The next token of each row, shape (rows, 1): the likeliest, or one drawn by the row's own dice."""
        dice = [self._rows[place].dice for place in places]
        if dice[0] is None:
            return scores.argmax(dim=-1, keepdim=True)
        seeds = torch.tensor([die.getrandbits(63) if die else 0 for die in dice], device=scores.device)
        return (scores + _gumbel(seeds, scores.shape[-1])).argmax(dim=-1, keepdim=True)

    def _take_tokens(self, tokens: torch.Tensor, places: Sequence[int], started: float) -> None:
        chosen = tokens[:, 0].tolist()  # where a GPU is waited for
        alive = [(place, token) for place, token in zip(places, chosen, strict=True) if not self._rows[place].ending]
        share = (time.monotonic() - started) / len(alive)
        for place, token in alive:
            self._rows[place].seconds += share
            if self._rows[place].take(token, self._end_token_ids):
                self._on_end(place)


def _gumbel(seeds: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Noise of shape (rows, tokens) that, added to scores, makes the largest one a draw (the Gumbel-max trick).

    Each token's noise follows from the row's seed and the token alone, by the mixing steps of SplitMix64. So the last
    digits of scores, which hang on the batch, hardly ever change what is drawn.
    """
    tokens = torch.arange(num_tokens, device=seeds.device)
    mixed = seeds[:, None] + tokens * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ (mixed >> shift & (1 << 64 - shift) - 1)) * factor
    uniform = ((mixed >> 40 & 0xFFFFFF).float() + 0.5) / 0x1000000  # 24 bits, which float32 holds
    return -(-uniform.log()).log()


def _without_padding(input_ids: torch.Tensor, model_kwargs: dict[str, Any]) -> torch.Tensor:
    """The prompts as a repetition penalty may see them: in place of padding, which depends on the batch, a token of
    the row's own prompt, which changes nothing."""
    mask = model_kwargs.get("attention_mask")
    return input_ids if mask is None else torch.where(mask.bool(), input_ids, input_ids[:, -1:])
