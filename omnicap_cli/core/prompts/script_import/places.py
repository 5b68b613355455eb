"""What the names of a script mean: the role of a text, and its type, style and language. It knows no texts."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from omnicap_cli.core.prompts.catalogue import Catalogue, is_name

SYSTEM: Final = "system text"
QUESTION: Final = "question"
ROLES: Final = (SYSTEM, QUESTION)
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_QUESTION_WORDS: Final = {"question", "query", "queries", "user", "instruction"}
_OTHER_WORDS: Final = {  # beside them, the words above speak of something else
    *("file", "path", "dir", "os", "platform", "info", "version", "name", "agent", "exit", "error"),
    *("id", "num", "count", "index", "len", "length", "token"),
}
_LANGUAGE_MARK: Final = re.compile(r"(?:^|[_-])(cn|zh|en)(?=[_-]|$)", re.IGNORECASE)
_LANGUAGES: Final = {"en": "en", "eng": "en", "english": "en", "zh": "zh", "cn": "zh", "chinese": "zh", "zh_cn": "zh"}


class CatalogueKey(NamedTuple):
    """What selects a prompt of the catalogue; the type or the style may be new there."""

    type: str
    style: str
    lang: str


class CatalogueKeys:
    """Finds what a script's names select in the built-in catalogue, whatever their case."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._types = {kind.name.casefold(): kind.name for kind in catalogue}
        self._styles: dict[tuple[str, str], CatalogueKey] = {}  # by type and name
        self._aliases: dict[str, list[CatalogueKey]] = {}
        for kind in catalogue:
            for style in kind.styles.values():
                for name in style.names:
                    key = CatalogueKey(kind.name, style.name, style.language_of(name) or "")
                    self._styles[kind.name, name.casefold()] = key
                    if name != style.name:
                        self._aliases.setdefault(name.casefold(), []).append(key)

    def type_named(self, name: str) -> str | None:
        """The built-in type of that name."""
        return self._types.get(name.casefold())

    def type_in(self, name: str) -> str | None:
        """The built-in type of which the name of a variable speaks (`natural_prompts`)."""
        types = {self.type_named(word) for word in name.split("_")} - {None}
        return types.pop() if len(types) == 1 else None

    def of_alias(self, name: str) -> CatalogueKey | None:
        """What a name selects by itself, as an alias with or without a mark of its language."""
        for alias in (name, split_language(name)[0]):
            keys = self._aliases.get(alias.casefold(), [])
            if len(keys) == 1:
                return keys[0]
        return None

    def find(self, type_name: str | None, name: str, lang: str | None) -> CatalogueKey | None:
        """What `name` selects: a style of its type, else an alias, else a new style where the type is told."""
        bare, own_lang = split_language(name)
        kind = self.type_named(type_name or "") or ""
        key = self._styles.get((kind, name.casefold())) or self._styles.get((kind, bare.casefold()))
        key = key or self.of_alias(name)
        if key is None and type_name and is_name(type_name) and is_name(bare):
            key = CatalogueKey(kind or type_name, bare, "")
            self._styles[key.type, bare.casefold()] = key
            self._types.setdefault(type_name.casefold(), type_name)
        return key and key._replace(lang=key.lang or own_lang or lang or "en")


def role_of(name: str, *, is_sure: bool = False) -> str | None:
    """The role that the name of a variable, function or key speaks of; surely, or with "prompt" for a question."""
    words = {each for word in _WORD.findall(name) for each in (word.lower(), word.lower().removesuffix("s"))}
    if words & _OTHER_WORDS or name == "sys":
        return None
    if words & {"system", "sys"}:
        return SYSTEM
    return QUESTION if words & _QUESTION_WORDS or (not is_sure and "prompt" in words) else None


def split_language(name: str) -> tuple[str, str | None]:
    """A name without the mark of its language (`Detailed_CN_Natural`), and that language."""
    mark = _LANGUAGE_MARK.search(name)
    if mark is None or mark.span() == (0, len(name)):
        return name, None
    return (name[: mark.start()] + name[mark.end() :]).lstrip("_-"), language(mark[1])


def language(word: str) -> str | None:
    """The language of the catalogue that a word means."""
    return _LANGUAGES.get(word.casefold().replace("-", "_"))
