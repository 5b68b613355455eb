"""The prompts of a script: each of its keys is followed through it, and what is found goes to its place.

It knows neither files nor messages: what could not be understood is a list of lines with what is wrong there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.prompt_import.clues import Clues, Event, Met
from omnicap_cli.prompt_import.following import Run, follow_script
from omnicap_cli.prompt_import.holdings import Holdings
from omnicap_cli.prompt_import.places import Place, Places, language
from omnicap_cli.prompt_import.roles import QUESTION, ROLES, SYSTEM
from omnicap_cli.prompt_import.script import Script
from omnicap_cli.prompt_import.values import Seed, Value
from omnicap_cli.prompt_import.verdicts import DIFFERING, Target, verdict


class Problem(NamedTuple):
    """What is wrong at a line of the script (from 1), and whether a prompt is left out for it."""

    line: int
    what: str
    is_left_out: bool = True


class Found(NamedTuple):
    """The texts of one place, and the keys of the script that lead there."""

    system: str
    user: str
    keys: list[str]


@dataclass(slots=True)
class Prompts:
    """What a script holds, in its order, and what was left out."""

    found: dict[Place, Found] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def find_prompts(script: Script, catalogue: Catalogue) -> Prompts:
    """Every prompt of a script that is certain. Raises OmnicapError where the script takes too long to follow."""
    return _Search(script, catalogue).prompts()


class _Search:
    def __init__(self, script: Script, catalogue: Catalogue) -> None:
        self._script, self._places, self._clues = script, Places(catalogue), Clues()
        self._result = Prompts()
        self._disputed: set[Place] = set()
        self._said: dict[str, list[Target]] = {}  # by key, those of which all has been said
        overall = self._follow(Target(""))
        self._holdings = Holdings(overall, self._places)
        self._roles = overall.roles | self._holdings.roles
        self._types: list[str] = []
        self._langs: list[str] = []
        num_words = -1
        while num_words < len(self._words()):  # a run may reach what selects further in
            num_words = len(self._words())
            self._explore()

    def _explore(self) -> None:
        """Follow every type, language and key once, for what selects there."""
        words, kinds = self._words(), self._holdings.kinds
        self._types = [word for word in words if word in kinds or self._places.type_named(word)]
        self._langs = [word for word in words if language(word)]
        for word in self._types:
            self._holdings.take_lists_of(word, self._follow(Target("", word)))
        for target in (*(Target("", None, word) for word in self._langs), *map(Target, self._style_keys())):
            self._follow(target)

    def prompts(self) -> Prompts:
        """The search itself."""
        for key in self._style_keys():
            for target, events in self._runs(key):
                self._add(target, {role: verdict(events, role) for role in ROLES})
        for key, targets in self._holdings.targets.items():
            told = list(self._said.get(key, []))
            for target in targets:
                if not told:
                    self._add(target, dict.fromkeys(ROLES))
                elif target[1:] != (None, None) and not any(said.covers(target) for said in told):
                    under = " and ".join(word for word in target[1:] if word)
                    self._report(key, f"what becomes of {key!r} under {under} only a run would tell")
        self._report_missing()
        self._report_draws()
        self._result.problems = sorted(set(self._result.problems))
        return self._result

    # ------------------------------------------------------------------------------------ what there is to follow

    def _follow(self, target: Target) -> Run:
        """A run with each selector bound to the word of `target` that it selects by."""
        bindings: dict[str, str] = {}
        told = [word for word in (target.type, target.lang) if word]
        for name, words in self._clues.selectors.items():
            if target.key and target.key in words:
                bindings[name] = Seed(target.key)
            elif word := next((word for word in told if word in words), None):
                bindings[name] = word
        return follow_script(self._script, self._clues, bindings)

    def _words(self) -> list[str]:
        """Every text that selects something, in the order of the script."""
        words = {word for words in self._clues.selectors.values() for word in words}
        return sorted(words, key=lambda word: (self._clues.lines[word], word))

    def _style_keys(self) -> list[str]:
        """The keys by which a selector of styles selects: one that selects at least one known style."""
        known = {*self._holdings.targets, *self._holdings.kinds_of}
        wanted: set[str] = set()
        for words in self._clues.selectors.values():
            if any(word in known or self._places.of_alias(word) for word in words):
                wanted |= {word for word in words if not language(word)}
        wanted -= {word for word in self._types if word not in known and not self._places.of_alias(word)}
        return [word for word in self._words() if word in wanted]

    def _runs(self, key: str) -> Iterator[tuple[Target, list[Event]]]:
        """The runs that tell the texts of a key: one for it alone, or if that isn't enough for its types, languages."""
        alone = self._follow(Target(key)).events
        tried: list[tuple[Target, list[Event]]] = []
        enough: list[Target] = []
        kinds = [None, *self._types_for(key, alone)]
        for lang in (None, *self._langs):
            for kind in kinds:
                target = Target(key, kind, lang)
                if any(each.covers(target) for each in enough):
                    continue
                events = self._follow(target).events if kind or lang else alone
                tried.append((target, events))
                is_hit = target == Target(key) or any(event.met is Met.HIT for event in events)
                if is_hit and all(isinstance(verdict(events, role), str) for role in ROLES if role in self._roles):
                    enough.append(target)
        if enough:
            yield from (each for each in tried if each[0] in enough)
        else:
            yield max(tried, key=lambda each: self._num_told(*each))

    def _num_told(self, target: Target, events: list[Event]) -> tuple[int, int, bool]:
        """How much a run told: its texts, the places where they are made, and whether it was about the right type."""
        verdicts = [verdict(events, role) for role in ROLES]
        num_texts = sum(isinstance(each, str) for each in verdicts)
        place = self._places.of_alias(target.key)
        is_right = bool(place and target.type and self._places.type_named(target.type) == place.type)
        return num_texts, len(verdicts) - verdicts.count(None), is_right

    def _types_for(self, key: str, alone: list[Event]) -> list[str]:
        """The types under which a key has to be tried, as the script spells them."""
        listing = [word for word in self._holdings.kinds_of.get(key, []) if word in self._types]
        if listing:
            return listing
        place = self._places.of_alias(key)
        if place and isinstance(verdict(alone, QUESTION), str):  # only the system text is told by the type
            return [word for word in self._types if self._places.type_named(word) == place.type]
        return self._types

    # ---------------------------------------------------------------------------------------- what comes of it

    def _place(self, target: Target) -> Place | None:
        kind = target.type
        if kind is None and not self._places.of_alias(target.key):
            kinds = self._holdings.kinds_of.get(target.key, [])
            kind = kinds[0] if len(kinds) == 1 else None
        return self._places.find(kind, target.key, language(target.lang) if target.lang else None)

    def _add(self, target: Target, texts: dict[str, Value]) -> None:
        """Take the texts of a target, with those that only tables have, or report what is wrong with them."""
        key, place = target.key, self._place(target)
        for role in ROLES:
            if texts[role] is None:
                texts[role] = self._holdings.text(target, place.type if place else "", role)
        if texts[QUESTION] is None and (texts[SYSTEM] is None or place is None):
            return
        self._said.setdefault(key, []).append(target)
        if place is None:
            self._report(key, f"{key!r} is no style that is known, and no table tells its type")
        elif problem := self._problem(key, texts):
            self._result.problems.append(problem)
            self._dispute(place)
        else:
            self._put(place, Found(str(texts[SYSTEM] or ""), str(texts[QUESTION]), [key]))

    def _problem(self, key: str, texts: dict[str, Value]) -> Problem | None:
        """Why no prompt can be made of what was found."""
        line = self._clues.lines.get(key, 1)
        for role in ROLES:
            text = texts[role]
            if text is DIFFERING:
                return Problem(line, f"the {role} of {key!r} isn't the same everywhere")
            if text is None:
                if role in self._roles or role == QUESTION:
                    return Problem(line, f"{key!r} has no {role}")
            elif not isinstance(text, str):
                shown = self._script.shown(text.line)
                return Problem(text.line, f"the {role} of {key!r} is built at run time: {shown}")
            elif not _is_unicode(text):
                return Problem(line, f"the {role} of {key!r} has half of a surrogate pair, which no file can hold")
        return None if texts[QUESTION].strip() else Problem(line, f"the question of {key!r} is empty")

    def _put(self, place: Place, found: Found) -> None:
        key = found.keys[0]
        there = self._result.found.get(place)
        if place in self._disputed:
            self._report(key, f"{key!r} means {'/'.join(place)}, as do others that were left out")
        elif there and there[:2] != found[:2]:
            self._dispute(place)
            self._report(key, f"{key!r} has other texts than {there.keys[0]!r}, and both mean {'/'.join(place)}")
        elif there:
            there.keys.extend(each for each in found.keys if each not in there.keys)
        else:
            self._result.found[place] = found

    def _dispute(self, place: Place) -> None:
        """One of the keys of a place isn't certain: then none of them is."""
        self._disputed.add(place)
        self._result.found.pop(place, None)

    def _report(self, key: str, what: str) -> None:
        self._result.problems.append(Problem(self._clues.lines.get(key, 1), what))

    def _report_missing(self) -> None:
        """Keys that are listed or compared with, and lead to no text."""
        said = {self._places.of_alias(key) for key in self._said}
        for word in self._clues.lines:
            place = self._places.of_alias(word)
            if word in self._said or (place in said if place else word not in self._holdings.promised):
                continue
            if self._places.type_named(word):
                continue
            kinds = self._holdings.kinds_of.get(word)
            if word in self._holdings.without_role:
                self._report(word, f"nothing says whether the text of {word!r} is a system text or a question")
            else:
                self._report(word, f"{word!r}{f' is listed for {kinds[0]}, but' if kinds else ''} has no texts")

    def _report_draws(self) -> None:
        texts = [text for found in self._result.found.values() for text in found[:2]]
        for line, first in self._clues.draws.items():
            if any(first in text for text in texts):
                what = f"one of several texts is drawn at random; the first is taken: {self._script.shown(line)}"
                self._result.problems.append(Problem(line, what, is_left_out=False))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
