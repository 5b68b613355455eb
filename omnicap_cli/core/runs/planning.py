"""Items times prompts makes requests, each with the key by which finished work is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import orjson

from omnicap_cli.core.runs.column_marks import fill_columns, has_columns
from omnicap_cli.core.runs.records import EngineIdentity, Item, MediaRef, Prompt, Request, Settings
from omnicap_cli.errors import ItemError


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """Every item is asked every prompt, by one engine under one group of settings.

    With `fill_columns` the `{column}` marks of the prompts are filled from each item's own columns.
    """

    prompts: Sequence[Prompt]
    engine: EngineIdentity
    settings: Settings
    fill_columns: bool = False
    _digests: dict[tuple[int | str, ...], bytes] = field(default_factory=dict)

    @property
    def prompt_names(self) -> list[str]:
        """As `type/style/lang`."""
        return [prompt.name for prompt in self.prompts]

    def requests_of(self, item: Item) -> list[Request]:
        """One request per prompt, in the order of the prompts."""
        name = f"{item.id}\0{item.fingerprint}\0".encode("utf-8", "surrogatepass")
        requests = []
        for number, prompt in enumerate(self.prompts):
            digest, asked, of = self._kept_digest(number, item.visuals), prompt, item
            if self.fill_columns and has_columns(prompt.system + prompt.user):
                try:
                    system, user = (fill_columns(text, item.meta) for text in (prompt.system, prompt.user))
                    asked = replace(prompt, system=system, user=user)
                    digest = self._digest_of(asked, item.visuals)
                except ItemError as error:
                    of = replace(item, error=item.error or error)
            key = hashlib.sha256(name + digest).hexdigest()
            requests.append(Request(key=key, item=of, prompt=asked, settings=self.settings))
        return requests

    def requests(self, items: Iterable[Item]) -> Iterator[list[Request]]:
        """The requests of each item, lazily."""
        return map(self.requests_of, items)

    def _kept_digest(self, number: int, visuals: Sequence[MediaRef]) -> bytes:
        """What a key takes from everything but the item: the same for all items of the same kinds, so kept."""
        place = (number, *(visual.kind for visual in visuals))
        if place not in self._digests:
            self._digests[place] = self._digest_of(self.prompts[number], visuals)
        return self._digests[place]

    def _digest_of(self, prompt: Prompt, visuals: Sequence[MediaRef]) -> bytes:
        texts = [(each.type, each.style, each.lang, each.system, each.user) for each in (prompt, *prompt.choices)]
        engine = (self.engine.engine, self.engine.model, self.engine.revision, self.engine.fingerprint)
        settings = {**self.settings.of(visuals), **self.engine.settings}
        named = [texts if prompt.choices else texts[0], engine, settings]
        return hashlib.sha256(orjson.dumps(named, option=orjson.OPT_SORT_KEYS)).digest()
