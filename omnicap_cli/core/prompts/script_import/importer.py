"""From a script to a catalogue file, with what is left out of it. It knows neither Python's syntax nor TOML's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from omnicap_cli.core.files.words import printable
from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.prompts.script_import.places import QUESTION, ROLES, CatalogueKey, CatalogueKeys, language
from omnicap_cli.core.prompts.script_import.reading import BuiltAt, KeyedText, ScriptReader, Text
from omnicap_cli.core.prompts.script_import.script import HINT, Script, read_script
from omnicap_cli.core.prompts.script_import.writing import ImportedPrompt, as_toml, check_toml
from omnicap_cli.errors import OmnicapError

_MAX_SHOWN: Final = 20


class PromptImport(NamedTuple):
    """`toml` is the catalogue file; `problems` are messages, each of a line of the script."""

    toml: str
    num_prompts: int
    num_types: int
    problems: tuple[str, ...]

    def summary(self, output: Path | None) -> str:
        """The outcome in one line."""
        prompts = f"{self.num_prompts:,} prompt{'s' if self.num_prompts != 1 else ''}"
        types = f"{self.num_types:,} type{'s' if self.num_types != 1 else ''}"
        left_out = f"{len(self.problems):,} left out" if self.problems else "nothing left out"
        return f"{prompts} for {types}, {left_out}" + (f" → {printable(str(output))}" if output else "")


def import_prompts(path: Path) -> PromptImport:
    """Read the prompts of a script. Raises OmnicapError where it isn't Python, or holds none that is certain."""
    script, catalogue = read_script(path), Catalogue.load()
    try:
        selection = _Selection(script, catalogue)
    except RecursionError as error:
        raise OmnicapError(f"{path}: nested too deeply to be read", hint=HINT) from error
    problems = tuple(printable(f"{path}:{line}: {what}") for line, what in sorted(selection.problems))
    if not selection.prompts:
        more = f"and {len(problems) - _MAX_SHOWN:,} more" if len(problems) > _MAX_SHOWN else ""
        message = "\n  ".join(filter(None, [f"{path}: no prompt in it is understood", *problems[:_MAX_SHOWN], more]))
        raise OmnicapError(message, hint=HINT)
    toml = as_toml(selection.prompts, catalogue, title=f"The prompts of {printable(path.name)}, for --prompts.")
    check_toml(toml, selection.prompts)
    return PromptImport(toml, len(selection.prompts), len({key.type for key in selection.prompts}), problems)


class _Target(NamedTuple):
    """A key of the script, under a type and a language where the script tells them apart by more than the key."""

    key: str
    type: str | None = None
    lang: str | None = None

    def covers(self, other: _Target) -> bool:
        """Whether what is said of this is said of `other` too."""
        return all(mine in (None, its) for mine, its in zip(self, other, strict=True))


class _Selection:
    """The prompts that a script tells for certain, and by line what is wrong with the others."""

    def __init__(self, script: Script, catalogue: Catalogue) -> None:
        self.prompts: dict[CatalogueKey, ImportedPrompt] = {}
        self.problems: set[tuple[int, str]] = set()
        self._script, self._keys = script, CatalogueKeys(catalogue)
        self._texts = ScriptReader(script.tree).read_texts()
        self._disputed_keys: set[CatalogueKey] = set()
        self._roles = {text.role for text in self._texts.keyed_texts}
        self._by_key: dict[str, dict[_Target, list[KeyedText]]] = {}
        for text in self._texts.keyed_texts:
            target = self._target(text)
            if text.role or self._keys.of_alias(target.key):
                self._by_key.setdefault(target.key, {}).setdefault(target, []).append(text)
        kinds = self._read_lists()
        for target in [each for targets in self._by_key.values() for each in targets]:
            is_of_type = target == _Target(target.key) and self._keys.type_named(target.key)  # for all its styles
            is_covering = any(target != other and target.covers(other) for other in self._by_key[target.key])
            if not is_covering and not (is_of_type and not self._keys.of_alias(target.key)):
                for kind in [target.type] if target.type else kinds.get(target.key) or [None]:
                    self._add_prompt(target._replace(type=kind))

    def _target(self, text: KeyedText) -> _Target:
        keys = [key for key in text.keys if not language(key)]
        lang = next((key for key in text.keys if language(key)), None)
        if len(keys) == 1 and (kind := self._keys.type_in(text.holder)):
            keys.insert(0, kind)
        if len(keys) == 2 and self._keys.type_named(keys[1]) and not self._keys.type_named(keys[0]):
            keys.reverse()
        return _Target(keys[-1] if keys else "", keys[-2] if len(keys) > 1 else None, lang)

    def _read_lists(self) -> dict[str, dict[str, None]]:
        """The types that list a key, of those lists that are about styles; a key without texts is a problem."""
        kinds: dict[str, dict[str, None]] = {}
        for kind, keys in self._texts.key_lists:
            if any(key in self._by_key or self._keys.of_alias(key) for key in keys):
                for key, line in keys.items():
                    kinds.setdefault(key, {})[kind] = None
                    if key not in self._by_key:
                        self.problems.add((line, f"{key!r} is listed for {kind}, but has no texts"))
        return kinds

    def _add_prompt(self, target: _Target) -> None:
        key = self._keys.find(target.type, target.key, language(target.lang) if target.lang else None)
        texts = {role: self._texts_of(target, key, role) for role in ROLES}
        line, problem = self._problem(target.key, key, texts)
        system, user = (str(next(iter(texts[role]), "")) for role in ROLES)
        there = self.prompts.get(key) if key else None
        if problem is None and key in self._disputed_keys:
            problem = f"{target.key!r} means {'/'.join(key)}, as do others that were left out"
        elif problem is None and there and (there.system, there.user) != (system, user):
            problem = f"{target.key!r} has other texts than {there.keys[0]!r}, and both mean {'/'.join(key or ())}"
        if problem:
            self.problems.add((line, problem))
        if problem and key:
            self._disputed_keys.add(key)
            self.prompts.pop(key, None)
        elif key:
            keys = [*(there.keys if there else []), target.key]
            self.prompts[key] = ImportedPrompt(system, user, list(dict.fromkeys(keys)))

    def _texts_of(self, target: _Target, key: CatalogueKey | None, role: str) -> list[Text]:
        """The different texts for a target, else for all styles of its type, else for all."""
        kind = target.type or (key.type if key else "")
        own = [text for other, texts in self._by_key[target.key].items() if other.covers(target) for text in texts]
        of_type = self._by_key.get(kind, {}).get(_Target(kind), [])
        texts = [[text.text for text in group if text.role == role] for group in (own, of_type)]
        shared = [] if role in self._roles else self._texts.shared_texts[role]
        return list(dict.fromkeys(texts[0] or texts[1] or shared))

    def _problem(self, name: str, key: CatalogueKey | None, texts: dict[str, list[Text]]) -> tuple[int, str | None]:
        """Why no prompt can be made of what was found, and the line where that is to be seen."""
        line = min(text.line for each in self._by_key[name].values() for text in each)
        if not any(texts.values()):
            return line, f"nothing says whether the text of {name!r} is a system text or a question"
        for role in ROLES:
            if built := next((text for text in texts[role] if isinstance(text, BuiltAt)), None):
                return built.line, f"the {role} of {name!r} is built at run time: {self._script.shown(built.line)}"
        if key is None:
            return line, f"{name!r} is no style that is known, and no table tells its type"
        for role in ROLES:
            if len(texts[role]) > 1:
                return line, f"the {role} of {name!r} isn't the same everywhere"
            if not texts[role] and (role == QUESTION or self._texts.speaks_of_system):
                return line, f"{name!r} has no {role}"
            if any(re.search("[\ud800-\udfff]", str(text)) for text in texts[role]):
                return line, f"the {role} of {name!r} has half of a surrogate pair, which no file can hold"
        return line, None if str(texts[QUESTION][0]).strip() else f"the question of {name!r} is empty"
