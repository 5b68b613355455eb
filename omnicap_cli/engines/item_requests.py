"""The requests of an item put together again: engines decode each item once. It knows no engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from omnicap_cli.core.runs.records import Idle, Request


def requests_by_item(requests: Iterable[Request | Idle]) -> Iterator[list[Request] | Idle]:
    """A list for each item, which may be cut short where the requests end early."""
    of_item: list[Request] = []
    for request in requests:
        if isinstance(request, Idle):
            yield request
            continue
        of_item.append(request)
        if not request.num_following:
            yield of_item
            of_item = []
    if of_item:
        yield of_item
