"""What requests will cost a model, from the sizes of their pictures. It opens no file and runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnicap_cli.core.batching.planner import Picture, Planner
from omnicap_cli.core.runs.records import Request
from omnicap_cli.core.tokens.prompt_tokens import Chat, TokenCounts
from omnicap_cli.errors import ItemError

Group = Sequence[Request]  # all requests of one item


def counted(chat: Chat, group: Group, *, width: int, height: int) -> Picture[Group]:
    """The picture of a group, of `width` by `height` pixels, as a planner takes it. Raises an ItemError."""
    counts = [_counts(chat, request, width, height) for request in group]
    return Picture(
        what=group,
        num_patches=counts[0].num_patches,
        num_image_tokens=counts[0].image_tokens,
        prompt_tokens=tuple(each.prompt_tokens for each in counts),
    )


def _counts(chat: Chat, request: Request, width: int, height: int) -> TokenCounts:
    """Of the longest prompt that the request may come to."""
    prompts = (request.prompt, *request.prompt.choices)
    counts = [chat.counts(each, width=width, height=height, settings=request.settings) for each in prompts]
    return max(counts, key=lambda each: each.prompt_tokens)


class Forecast:
    """Counts tokens and batches of requests that are not run."""

    def __init__(self, chat: Chat, planner: Planner[Group]) -> None:
        self._chat, self._planner = chat, planner
        self._num_image_tokens = 0

    def add(self, group: Group, *, width: int, height: int) -> None:
        """Count the requests of one item; one that the model refuses costs nothing."""
        try:
            picture = counted(self._chat, group, width=width, height=height)
        except ItemError:
            return
        self._num_image_tokens += picture.num_image_tokens * len(group)
        self._planner.add(picture)
        while self._planner.next_batch():
            pass

    def named(self) -> dict[str, Any]:
        """The counts. The batches are those of answers as long as they may be; real ones mostly hold more."""
        while self._planner.next_batch(flush=True):
            pass
        totals = self._planner.totals
        return {
            "prompt_tokens": totals.num_tokens - self._num_image_tokens,
            "image_tokens": self._num_image_tokens,
            "batches": totals.num_batches,
            "rows_per_batch": round(totals.num_rows / max(1, totals.num_batches), 1),
            "too_large": totals.num_too_large,
        }
