"""Items times prompts makes requests, each with the key by which finished work is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field

import orjson

from omnicap_cli.core.records import EngineIdentity, Item, MediaRef, Prompt, Request, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """Every item is asked every prompt, by one engine under one group of settings."""

    prompts: Sequence[Prompt]
    engine: EngineIdentity
    settings: Settings
    _digests: dict[tuple[int, str], bytes] = field(default_factory=dict)

    @property
    def prompt_names(self) -> list[str]:
        """As `type/style/lang`."""
        return [f"{prompt.type}/{prompt.style}/{prompt.lang}" for prompt in self.prompts]

    def requests_of(self, item: Item) -> list[Request]:
        """One request per prompt, in the order of the prompts."""
        name = f"{item.id}\0{item.fingerprint}\0".encode("utf-8", "surrogatepass")
        return [
            Request(
                key=hashlib.sha256(name + self._digest(number, item.media)).hexdigest(),
                item=item,
                prompt=prompt,
                settings=self.settings,
            )
            for number, prompt in enumerate(self.prompts)
        ]

    def _digest(self, number: int, media: MediaRef) -> bytes:
        """What a key takes from everything but the item: the same for all items of one kind, so kept."""
        place = (number, media.kind)
        if place not in self._digests:
            named = [astuple(self.prompts[number]), astuple(self.engine), self.settings.of(media)]
            self._digests[place] = hashlib.sha256(orjson.dumps(named, option=orjson.OPT_SORT_KEYS)).digest()
        return self._digests[place]

    def requests(self, items: Iterable[Item]) -> Iterator[list[Request]]:
        """The requests of each item, lazily."""
        return map(self.requests_of, items)
