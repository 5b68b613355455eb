"""What is different between two configurations of one run, for a resume. It knows them as plain JSON values only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

FREE_ON_RESUME: Final = frozenset(
    {
        "checkpoint.every_minutes",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "checkpoint.output",
        "data.num_workers",
        "distributed.offload",
        "logging.*",
    }
)
"""Keys, and `section.*` for whole sections, that change nothing of what is learned."""

FIXED: Final = frozenset(
    {
        "adapter.kind",
        "adapter.rank",
        "adapter.vision",
        "model.train_llm",
        "model.train_merger",
        "model.train_vision",
    }
)
"""Keys that decide which weights learn: the state of an optimiser is of no use for others."""

_ABSENT: Final = object()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for each key with another value in `new` than in `old`, both from `TrainConfig.as_dict`.

    A line reads `section.key: value, was value`. Keys that may change on a resume are left out.
    """
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    lines = []
    for key in dict.fromkeys((*after, *before)):
        was, value = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if was != value and not _may_change(key):
            lines.append(f"{key}: {_value_as_text(value)}, was {_value_as_text(was)}")
    return lines


def _may_change(key: str) -> bool:
    return key in FREE_ON_RESUME or f"{key.partition('.')[0]}.*" in FREE_ON_RESUME


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Each value that holds no others, with its dotted key; places in a list count from 0."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{place}[{index}]")
    else:
        yield place, value


def _value_as_text(value: Any) -> str:
    return "not there" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
