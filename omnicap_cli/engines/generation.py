"""How text is generated, as a user decides it. It knows no engine and no model.

Greedy unless a temperature is given: the same picture then gets the same caption, alone or among others.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from omnicap_cli.core.runs.records import FinishReason
from omnicap_cli.errors import OptionError

DEFAULT_MAX_NEW_TOKENS: Final = 2048  # of the published inference script

# What the published script samples with, and the pixels that it allows (arXiv 2504.07089, inference_single_image.py).
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "paper": {
        "max_new_tokens": 2048,
        "temperature": 0.2,
        "top_p": 0.8,
        "top_k": 10,
        "repetition_penalty": 1.2,
        "min_pixels": 2 * 28 * 28,
        "max_pixels": 6400 * 28 * 28,
    }
}


def with_preset(name: str | None, **given: Any) -> dict[str, Any]:
    """The options that are `given` (not None) over those of the preset. Raises OptionError for an unknown preset."""
    if name is not None and name not in PRESETS:
        raise OptionError("--preset", name, f"is not a preset; there is {', '.join(PRESETS)}")
    chosen = {option: value for option, value in given.items() if value is not None}
    preset = dict(PRESETS[name]) if name else {}
    if chosen.get("temperature") == 0:  # greedy, so that the preset's limits of what is drawn have no meaning
        preset = {option: value for option, value in preset.items() if option not in ("top_p", "top_k")}
    return preset | chosen


class Ending(NamedTuple):
    """How a row of generated tokens ended: the ids without the end mark, and why there are no more."""

    tokens: list[int]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The options of generation. None leaves a step out; without a temperature nothing is drawn by chance.

    `seed` decides what is drawn, for each request by itself: neither the batch size nor the order matters.
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0
    retry_loops: bool = False

    def __post_init__(self) -> None:
        _check("--max-new-tokens", self.max_new_tokens, self.max_new_tokens >= 1, "give 1 or more")
        _check("--temperature", self.temperature, (self.temperature or 0) >= 0, "give 0 (greedy) or more")
        _check("--top-p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "give more than 0, up to 1")
        _check("--top-k", self.top_k, self.top_k is None or self.top_k >= 1, "give 1 or more")
        penalty = self.repetition_penalty
        _check("--repetition-penalty", penalty, penalty is None or penalty > 0, "give more than 0; 1 is none")
        for option, value in (("--top-p", self.top_p), ("--top-k", self.top_k)):
            if value is not None and not self.samples:
                hint = "Give a --temperature too, such as 0.7, or leave it out."
                raise OptionError(option, value, "has no meaning where nothing is drawn by chance", hint=hint)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn by chance."""
        return bool(self.temperature)

    def as_settings(self) -> dict[str, Any]:
        """What changes a caption, by name: it goes into keys and records."""
        chosen: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature or None,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed if self.samples or self.retry_loops else None,
            "retry_loops": self.retry_loops or None,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def dice(self, key: str, *, attempt: int = 1) -> random.Random:
        """What draws the tokens of the request with this key."""
        return random.Random(hashlib.sha256(f"{self.seed}\0{attempt}\0{key}".encode()).digest())


def _check(option: str, value: object, is_right: bool, problem: str) -> None:
    if not is_right:
        raise OptionError(option, value, f"can't be used; {problem}")
