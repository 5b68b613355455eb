"""What a run would do, counted without doing it. It opens headers, no pixels, and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from omnicap_cli.core.runs.engine import Forecast
from omnicap_cli.core.runs.journal import JournalContents
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Item, Request, Settings
from omnicap_cli.errors import ItemError
from omnicap_cli.media.decode import probe_visual
from omnicap_cli.media.images import Size
from omnicap_cli.media.names import is_url


def count_plan(
    items: Iterable[Item],
    plan: RequestPlan,
    contents: JournalContents | None,
    *,
    retry_failed: bool,
    forecast: Forecast | None = None,
) -> dict[str, float]:
    """What a run over `items` would find: counts by name, and the pixels in millions, read from headers alone.

    What is behind a URL is counted and not measured. `forecast` adds what the engine makes of it.
    """
    names = ("items", "unreadable", "megapixels", "requests", "done", "failed_before", "to_do")
    counts: dict[str, float] = dict.fromkeys(names, 0)
    needs_requests = contents is not None or forecast is not None or plan.fill_columns
    for item in items:
        counts["items"] += 1
        sizes, is_unreadable = None, False
        try:
            sizes = _read_sizes(item, plan.settings)
        except ItemError:
            is_unreadable = True
        for size in sizes or ():
            counts["megapixels"] += size.width * size.height / 1e6
        if not needs_requests:
            counts["unreadable"] += is_unreadable
            counts["requests"] += len(plan.prompts)
            counts["to_do"] += len(plan.prompts)
            continue
        requests = plan.requests_of(item)
        counts["unreadable"] += is_unreadable or any(request.item.error for request in requests)
        to_do = _count_requests(requests, contents, counts, retry_failed=retry_failed)
        if forecast and to_do and sizes is not None:
            forecast.add(to_do, sizes)
    counts["megapixels"] = round(counts["megapixels"], 2)
    return counts | (forecast.counts() if forecast else {})


def _count_requests(
    requests: Iterable[Request], contents: JournalContents | None, counts: dict[str, float], *, retry_failed: bool
) -> list[Request]:
    """Count the requests of one item; those that are to be done."""
    to_do = []
    for request in requests:
        known = contents.known(request.key) if contents else None
        status = known.status if known else None
        counts["requests"] += 1
        counts["done"] += status == "ok"
        counts["failed_before"] += status == "error"
        if known is None or (retry_failed and status == "error"):
            to_do.append(request)
    counts["to_do"] += len(to_do)
    return to_do


def _read_sizes(item: Item, settings: Settings) -> list[Size] | None:
    """Those of its visuals, from headers; None where one would have to be downloaded first."""
    if item.error:
        raise item.error
    sizes = []
    for visual in item.visuals:
        if visual.content is None and is_url(visual.path):
            return None
        sizes.append(probe_visual(visual, settings))
    return sizes
