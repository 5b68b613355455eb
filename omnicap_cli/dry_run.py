"""What a run would do, counted without doing it. It opens headers, no pixels, and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable

from omnicap_cli.core.journal import Contents
from omnicap_cli.core.planning import RequestPlan
from omnicap_cli.core.records import Item, Settings
from omnicap_cli.errors import ItemError
from omnicap_cli.media.decode import probe
from omnicap_cli.media.names import is_url


def count_plan(
    items: Iterable[Item], plan: RequestPlan, contents: Contents | None, *, retry_failed: bool
) -> dict[str, float]:
    """What a run over `items` would find: counts by name, and the pixels in millions, read from headers alone.

    What is behind a URL is counted and not measured.
    """
    names = ("items", "unreadable", "megapixels", "requests", "done", "failed_before", "to_do")
    counts: dict[str, float] = dict.fromkeys(names, 0)
    for item in items:
        counts["items"] += 1
        try:
            counts["megapixels"] += _megapixels(item, plan.settings)
        except ItemError:
            counts["unreadable"] += 1
        if contents is None:  # nothing is known, so no key is needed
            counts["requests"] += len(plan.prompts)
            counts["to_do"] += len(plan.prompts)
            continue
        for request in plan.requests_of(item):
            known = contents.known(request.key)
            counts["requests"] += 1
            counts["done"] += known is not None and known.status == "ok"
            counts["failed_before"] += known is not None and known.status == "error"
            counts["to_do"] += known is None or (retry_failed and known.status == "error")
    counts["megapixels"] = round(counts["megapixels"], 2)
    return counts


def _megapixels(item: Item, settings: Settings) -> float:
    """Zero for what would have to be downloaded first."""
    if not item.error and item.media.content is None and is_url(item.media.path):
        return 0.0
    return math.prod(probe(item, settings)) / 1e6
