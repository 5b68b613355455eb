"""What requests will cost a model, from the sizes of their visuals. It opens no file and runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnicap_cli.core.batching.planner import Planner, RowGroup
from omnicap_cli.core.runs.records import Request
from omnicap_cli.core.tokens.chat import Chat, TokenCounts
from omnicap_cli.errors import ItemError

Requests = Sequence[Request]  # all of one item


def count_rows(chat: Chat, requests: Requests, sizes: Sequence[tuple[int, int]]) -> RowGroup[Requests]:
    """The requests of one item, whose visuals have `sizes`, as a planner takes them. Raises an ItemError."""
    counts = [_longest_prompt(chat, request, sizes) for request in requests]
    return RowGroup(
        what=requests,
        num_patches=counts[0].num_patches,
        num_visual_tokens=counts[0].visual_tokens,
        prompt_tokens=tuple(each.prompt_tokens for each in counts),
    )


def _longest_prompt(chat: Chat, request: Request, sizes: Sequence[tuple[int, int]]) -> TokenCounts:
    """The counts of the longest prompt that the request may come to."""
    prompts = (request.prompt, *request.prompt.choices)
    counts = [chat.counts(each, sizes, request.settings) for each in prompts]
    return max(counts, key=lambda each: each.prompt_tokens)


class BatchForecast:
    """Counts tokens and batches of requests that are not run."""

    def __init__(self, chat: Chat, planner: Planner[Requests]) -> None:
        self._chat, self._planner = chat, planner
        self._num_visual_tokens = 0

    def add(self, requests: Requests, sizes: Sequence[tuple[int, int]]) -> None:
        """Count the requests of one item; one that the model refuses costs nothing."""
        try:
            rows = count_rows(self._chat, requests, sizes)
        except ItemError:
            return
        self._num_visual_tokens += rows.num_visual_tokens * len(requests)
        self._planner.add(rows)
        while self._planner.next_batch():
            pass

    def counts(self) -> dict[str, Any]:
        """The counts. The batches are those of answers as long as they may be; real ones mostly hold more."""
        while self._planner.next_batch(flush=True):
            pass
        totals = self._planner.totals
        return {
            "prompt_tokens": totals.num_tokens - self._num_visual_tokens,
            "image_tokens": self._num_visual_tokens,
            "batches": totals.num_batches,
            "rows_per_batch": round(totals.num_rows / max(1, totals.num_batches), 1),
            "too_large": totals.num_too_large,
        }
