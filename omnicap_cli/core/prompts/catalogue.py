"""The catalogue of prompts: what is asked for each type, style and language. It knows no engine and no image.

The built-in catalogue is `prompts.toml` beside this file, which also explains the form of a user's own file.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OptionError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:  # the marker in pyproject.toml installs tomli there, and only there
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

T = TypeVar("T")

LANGUAGES: Final = ("en", "zh")
ALL: Final = "all"
AUTO: Final = "auto"  # in place of a type: the model is to choose one
_RESERVED: Final = {ALL, AUTO}
_NO_PICTURES: Final = {"video"}  # types that aren't of a single picture
_TYPES_MARK: Final = "{types}"  # in the question by which a model chooses
_CHOICE: Final = f"""\
Which of these kinds is the picture?

{_TYPES_MARK}

Answer with the name before the colon and nothing else."""
_LIST_HINT: Final = "`omnicap prompts list` shows every type, style and language"


class Alias(NamedTuple):
    """Another name for a style; with a language it means the style in that language only."""

    name: str
    lang: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One kind of answer. `prompts` is by language, in the order of LANGUAGES."""

    name: str
    description: str
    aliases: tuple[Alias, ...]
    prompts: Mapping[str, Prompt]

    @property
    def names(self) -> list[str]:
        """The name and every alias."""
        return [self.name, *(alias.name for alias in self.aliases)]

    def language_of(self, name: str) -> str | None:
        """The language that `name`, an alias, stands for: None where it leaves the choice to the user."""
        return next((alias.lang for alias in self.aliases if alias.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptType:
    """One kind of picture. The first of `styles` is the default."""

    name: str
    description: str
    styles: Mapping[str, Style]

    def nearest(self, style: str | None, lang: str) -> Prompt | None:
        """The prompt of a style, or of the default where the type has no such style, or of the first with `lang`."""
        named = [each for each in self.styles.values() if style in each.names]
        having = [each.prompts[lang] for each in (*named, *self.styles.values()) if lang in each.prompts]
        return having[0] if having else None

    def select(self, style: str, lang: str) -> list[Prompt]:
        """Prompts of one style, or of every style that has the language; an alias's own language wins."""
        if style == ALL:
            return self._styles_in(lang, self.name, list(self.styles.values()))
        named = self._style_named(style)
        return self._styles_in(named.language_of(style) or lang, f"{self.name}/{named.name}", [named])

    def _style_named(self, name: str) -> Style:
        for style in self.styles.values():
            if name in style.names:
                return style
        names = [each for style in self.styles.values() for each in style.names]
        raise _unknown_name_error("--style", name, f"a style of {self.name}", [*self.styles, ALL], names)

    def _styles_in(self, lang: str, what: str, styles: list[Style]) -> list[Prompt]:
        found = [p for style in styles for key, p in style.prompts.items() if lang in (key, ALL)]
        if found:
            return found
        has = " and ".join(key for key in LANGUAGES if any(key in style.prompts for style in styles))
        others = [style.name for style in self.styles.values() if lang in style.prompts]
        elsewhere = f", or a style of {self.name} that has {lang}: {', '.join(others)}" if others else ""
        hint = f"use --lang {ALL} for what it has{elsewhere}"
        raise OptionError("--lang", lang, f"is not a language of {what}, which has {has}", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Every type with its styles, and the prompt that each task type of the training data is trained with.

    `choice` is what a model is asked to find out the type of a picture; its question lists the types.
    """

    types: Mapping[str, PromptType]
    task_types: Mapping[str, Prompt]
    choice: Prompt

    @classmethod
    def load(cls, path: Path | None = None) -> Catalogue:
        """Read the built-in catalogue, with the entries of `path` merged over it or in its place.

        Raises UsageError with the file and the key where something in `path` can't be used.
        """
        return cls.parse("", "prompts.toml") if path is None else cls.parse(_read_text(path), str(path))

    @classmethod
    def parse(cls, toml: str, source: str) -> Catalogue:
        """As `load`, of what a file holds; `source` is what errors call it."""
        try:
            user = tomllib.loads(toml)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{source}: not TOML: {error}", hint="correct the place that is named") from error
        if user.get("replace") is not True:
            builtin = tomllib.loads((resources.files(__package__) / "prompts.toml").read_text("utf-8"))
            user = _merge_tables(builtin, user)
        return _parse_catalogue(_TomlTable(source, "", user))

    def __iter__(self) -> Iterator[PromptType]:
        return iter(self.types.values())

    @property
    def prompts(self) -> list[Prompt]:
        """Every prompt of every type, style and language."""
        return [prompt for kind in self for style in kind.styles.values() for prompt in style.prompts.values()]

    def select(self, type: str, styles: Sequence[str], lang: str) -> list[Prompt]:
        """Prompts in the order of `styles`, English before Chinese, each once.

        `styles` are names, aliases or "all" (those styles that have the language); none means the type's
        default. `lang` is "en", "zh", or "all" for the languages that a style has. Raises OptionError.
        """
        if type not in self.types:
            raise _unknown_name_error("--type", type, "a type", self.types)
        if lang not in (*LANGUAGES, ALL):
            raise _unknown_name_error("--lang", lang, "a language", [*LANGUAGES, ALL])
        kind = self.types[type]
        wanted = styles or [next(iter(kind.styles))]
        return list(dict.fromkeys(prompt for style in wanted for prompt in kind.select(style, lang)))

    def automatic(self, styles: Sequence[str], lang: str) -> Prompt:
        """What a model is asked that is to choose the type: its `choices` are one prompt of each type.

        Of a type without the style its default is asked, of one without the language nothing. Raises OptionError.
        """
        if lang not in LANGUAGES:
            raise OptionError("--lang", lang, f"doesn't go with --type {AUTO}", hint=f"choose {' or '.join(LANGUAGES)}")
        known = {name for kind in self for style in kind.styles.values() for name in style.names}
        if len(styles) > 1 or ALL in styles:
            raise OptionError("--style", ",".join(styles), f"is more than one, too many for --type {AUTO}")
        if styles and styles[0] not in known:
            raise _unknown_name_error("--style", styles[0], "a style of any type", sorted(known))
        style = styles[0] if styles else None
        kinds = [kind for kind in self if kind.name not in _NO_PICTURES]
        choices = tuple(filter(None, (kind.nearest(style, lang) for kind in kinds)))
        listed = "\n".join(f"{each.type}: {self.types[each.type].description}" for each in choices)
        question = self.choice.user.replace(_TYPES_MARK, listed)
        return replace(self.choice, style=style or "default", lang=lang, user=question, choices=choices)

    def system_for_task(self, task_type: str) -> str:
        """The system text under which records of `task_type` are trained. Raises OptionError."""
        if task_type not in self.task_types:
            raise _unknown_name_error("--task-type", task_type, "a task type", self.task_types)
        return self.task_types[task_type].system


def is_name(value: object) -> bool:
    """Whether a type, a style or an alias may be called so."""
    return isinstance(value, str) and value not in _RESERVED and re.fullmatch(r"[\w-]+", value) is not None


def _nearest_name(name: str, names: Iterable[str]) -> str | None:
    folded: dict[str, str] = {}
    for each in names:
        folded.setdefault(each.casefold(), each)  # a style before an alias that is the same but for case
    return next((folded[found] for found in difflib.get_close_matches(name.casefold(), folded, n=1)), None)


def _unknown_name_error(
    option: str, value: str, what: str, choices: Iterable[str], names: Iterable[str] = ()
) -> OptionError:
    """An error that lists `choices` and proposes the nearest of `names`, or of the choices."""
    choices = list(choices)
    nearest = _nearest_name(value, names or choices)
    problem = f"is not {what}; choose from {', '.join(choices)}"
    return OptionError(option, value, problem, hint=f"did you mean {nearest}?" if nearest else _LIST_HINT)


# ------------------------------------------------------------------------------------------ reading a file


@dataclass(frozen=True, slots=True)
class _TomlTable:
    """A table of a TOML file that knows where it stands, so that an error can say so."""

    source: str
    place: str
    values: Mapping[str, Any]

    def key(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def fail(self, name: str, problem: str, hint: str) -> NoReturn:
        raise UsageError(f"{self.source}: {self.key(name)}: {problem}", hint=hint)

    def only(self, *allowed: str) -> None:
        for name in self.values:
            if name not in allowed:
                nearest = _nearest_name(name, allowed)
                hint = f"did you mean {nearest}?" if nearest else "remove it"
                self.fail(name, f"unknown key; known here: {', '.join(allowed)}", hint)

    def typed(self, name: str, kind: type[T], what: str, hint: str) -> T:
        """The value of a key, or an empty one where the file doesn't have it."""
        value = self.values.get(name, kind())
        if not isinstance(value, kind):
            self.fail(name, f"is {value!r}, not {what}", hint)
        return value

    def table(self, name: str) -> _TomlTable:
        values = self.typed(name, dict, "a table", f"write it as [{self.key(name)}]")
        return _TomlTable(self.source, self.key(name), values)

    def tables(self) -> Iterator[tuple[str, _TomlTable]]:
        for name in self.values:
            self.check_name(name, name)
            yield name, self.table(name)

    def text(self, name: str) -> str | None:
        return self.typed(name, str, "a text", "put it in quotes") if name in self.values else None

    def aliases(self, lang: str | None) -> list[Alias]:
        names = self.values.get("aliases", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.fail("aliases", f"is {names!r}, not a list of names", 'write it as ["name", "other"]')
        for name in names:
            self.check_name("aliases", name)
        return [Alias(name, lang) for name in names]

    def check_name(self, key: str, name: str) -> None:
        if not is_name(name):
            problem = f"{name!r} can't be a name"
            self.fail(key, problem, "use letters, digits, '_' and '-'; 'all' and 'auto' have a meaning already")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
        raise OptionError("--prompts", str(path), problem, hint="give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})", hint="save the file as UTF-8") from error


def _merge_tables(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: tables are joined key by key, any other value replaces the one below."""
    joined = dict(below)
    for name, value in above.items():
        under = below.get(name)
        nested = isinstance(under, dict) and isinstance(value, dict)
        joined[name] = _merge_tables(below[name], value) if nested else value
    return joined


def _parse_catalogue(root: _TomlTable) -> Catalogue:
    root.only("types", "task_types", "choice", "replace")
    root.typed("replace", bool, "true or false", "write replace = true")
    types = {name: _parse_type(name, table) for name, table in root.table("types").tables()}
    if not types:
        root.fail("types", "has no type", "add one as [types.TYPE.styles.STYLE.en], or drop replace = true")
    catalogue = Catalogue(types=types, task_types={}, choice=_parse_choice(root))
    return replace(catalogue, task_types=_parse_task_types(root.table("task_types"), catalogue.prompts))


def _parse_choice(root: _TomlTable) -> Prompt:
    """The question by which a model chooses a type; the built-in one where a file that replaces all has none."""
    table = root.table("choice")
    table.only("system", "user")
    user = table.text("user") or _CHOICE
    if _TYPES_MARK not in user:
        table.fail("user", f"has no {_TYPES_MARK}", "write it where the list of types is to stand")
    return Prompt(type=AUTO, style="default", lang="en", system=table.text("system") or "", user=user)


def _parse_type(name: str, table: _TomlTable) -> PromptType:
    table.only("description", "system", "styles")
    systems = table.table("system")
    systems.only(*LANGUAGES)
    shared = {lang: systems.text(lang) for lang in LANGUAGES}
    styles = {key: _parse_style(name, key, each, shared) for key, each in table.table("styles").tables()}
    if not styles:
        table.fail("styles", "has no style", f"add one as [{table.key('styles')}.STYLE.en]")
    _check_aliases(table.table("styles"), styles)
    return PromptType(name=name, description=table.text("description") or "", styles=styles)


def _parse_style(type_name: str, name: str, table: _TomlTable, shared: Mapping[str, str | None]) -> Style:
    table.only("description", "aliases", *LANGUAGES)
    aliases, prompts = table.aliases(None), {}
    for lang in (key for key in LANGUAGES if key in table.values):
        texts = table.table(lang)
        texts.only("system", "user", "aliases")
        system, user = texts.text("system"), texts.text("user")
        system = shared[lang] if system is None else system
        if system is None:
            texts.fail("system", "missing", f'add system = "…" under [{texts.place}]')
        if user is None or not user.strip():
            texts.fail("user", "missing or empty", f'add user = "…" under [{texts.place}]')
        prompts[lang] = Prompt(type=type_name, style=name, lang=lang, system=system, user=user)
        aliases += texts.aliases(lang)
    if not prompts:
        table.fail("en", "missing, and so is zh: nothing is asked", f"add [{table.place}.en] with system and user")
    return Style(name=name, description=table.text("description") or "", aliases=tuple(aliases), prompts=prompts)


def _check_aliases(table: _TomlTable, styles: Mapping[str, Style]) -> None:
    """Refuse an alias that would name two styles, or one style twice.

    Either of the two may be built in, so that the message names both and blames neither.
    """
    taken = {name: name for name in styles}
    for style in styles.values():
        for alias in style.aliases:
            if alias.name in taken:
                problem = f"the alias {alias.name!r} stands for {taken[alias.name]} and again for {style.name}"
                raise UsageError(f"{table.source}: {table.place}: {problem}", hint="take one of them away")
            taken[alias.name] = style.name


def _parse_task_types(table: _TomlTable, prompts: Iterable[Prompt]) -> dict[str, Prompt]:
    known = {prompt.name: prompt for prompt in prompts}
    for name in table.values:
        target = table.text(name) or ""
        if target not in known:
            nearest = _nearest_name(target, known)
            hint = f"did you mean {nearest}?" if nearest else f"write TYPE/STYLE/LANG; {_LIST_HINT}"
            table.fail(name, f"{target!r} leads to no prompt", hint)
    return {name: known[target] for name, target in table.values.items()}
