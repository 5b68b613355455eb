"""Where a script's key belongs in the catalogue: its type, style and language. It knows names, no texts."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from omnicap_cli.core.prompts.catalogue import ALL, Catalogue

_LANGUAGE_MARK: Final = re.compile(r"(?:^|[_-])(cn|zh|en)(?=[_-]|$)", re.IGNORECASE)
_LANGUAGES: Final = {
    **dict.fromkeys(("en", "english", "eng"), "en"),
    **dict.fromkeys(("zh", "cn", "chinese", "zh_cn", "zh-cn"), "zh"),
}
_NAME: Final = re.compile(r"[\w-]+")
_RESERVED: Final = {ALL, "auto"}  # they have a meaning on the command line


class Place(NamedTuple):
    """A place in the catalogue; the type or the style may be new there."""

    type: str
    style: str
    lang: str


class Places:
    """Finds places by the names of the built-in catalogue, whatever their case."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._types = {kind.name.casefold(): kind.name for kind in catalogue}
        self._styles: dict[tuple[str, str], Place] = {}  # by type and name
        self._aliases: dict[str, list[Place]] = {}
        for kind in catalogue:
            for style in kind.styles.values():
                for name in style.names:
                    place = Place(kind.name, style.name, style.language_of(name) or "")
                    self._styles[kind.name, name.casefold()] = place
                    if name != style.name:
                        self._aliases.setdefault(name.casefold(), []).append(place)

    def type_named(self, name: str) -> str | None:
        """The built-in type of that name."""
        return self._types.get(name.casefold())

    def type_in(self, name: str) -> str | None:
        """The built-in type of which the name of a variable speaks (`natural_prompts`)."""
        found = {self.type_named(word) for word in name.split("_")} - {None}
        return found.pop() if len(found) == 1 else None

    def of_alias(self, key: str) -> Place | None:
        """The place that a key names by itself, as an alias with or without a mark of its language."""
        for name in (key, split_language(key)[0]):
            found = self._aliases.get(name.casefold(), [])
            if len(found) == 1:
                return found[0]
        return None

    def find(self, type_name: str | None, key: str, lang: str | None) -> Place | None:
        """The place of `key`: a style of its type, else an alias, else a new style where the type is told.

        `lang` is what the script says apart from the key. None where the key leads nowhere.
        """
        bare, own_lang = split_language(key)
        kind = self.type_named(type_name) if type_name else None
        place = None
        if kind:
            place = self._styles.get((kind, key.casefold())) or self._styles.get((kind, bare.casefold()))
        place = place or self.of_alias(key)
        if place is None and type_name and is_name(type_name) and is_name(bare):
            place = Place(kind or type_name, bare, "")
            self._styles[place.type, bare.casefold()] = place
            self._types.setdefault(type_name.casefold(), type_name)
        return place and place._replace(lang=place.lang or own_lang or lang or "en")


def split_language(key: str) -> tuple[str, str | None]:
    """A key without the mark of its language (`Detailed_CN_Natural`), and that language."""
    mark = _LANGUAGE_MARK.search(key)
    if mark is None or mark.span() == (0, len(key)):
        return key, None
    return (key[: mark.start()] + key[mark.end() :]).lstrip("_-"), language(mark[1])


def language(word: str) -> str | None:
    """The language of the catalogue that a word means."""
    return _LANGUAGES.get(word.casefold())


def is_name(text: str) -> bool:
    """Whether the catalogue takes it as a name."""
    return text not in _RESERVED and _NAME.fullmatch(text) is not None
