"""The records that flow: Item, Request, Result. They know how a line of a journal looks, and nothing of files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal

import orjson

from omnicap_cli.errors import ItemError

FinishReason = Literal["stop", "length", "repetition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """Where the pixels of an item are; whoever uses them decodes them from here.

    `path` is a file-system path as Python spells it (bytes that are not UTF-8 as surrogates), `page` counts from 1.
    """

    path: str
    page: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture or page. `error` is set where planning already saw that it can't be read."""

    id: str
    image: str
    media: MediaRef
    fingerprint: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    error: ItemError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What an engine is asked: the texts, and the name under which a user asked for them."""

    type: str
    style: str
    lang: str
    system: str
    user: str

    @property
    def sha(self) -> str:
        """The first 16 hex digits of the SHA-256 of both texts: enough to tell prompts apart in a record."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]
