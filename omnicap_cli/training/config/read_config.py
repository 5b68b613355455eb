"""From YAML to frozen dataclasses: keys are checked here, with the place of each in the error.

It knows no key of a configuration; what values are possible, their types say, and what goes together, the classes.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import yaml

from omnicap_cli.core.files.words import listed
from omnicap_cli.errors import OptionError, UsageError
from omnicap_cli.training.config.typed_values import bare_type, read_typed

T = TypeVar("T")

# what the parser raises beside its own: a date with a 13th month is a ValueError
_UNREADABLE: Final = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Refuses what YAML would read in silence as another thing: a key that is there twice, and 12:30 for 750."""

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if ":" in value and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            raise yaml.MarkedYAMLError(problem=f"{value} is no number", problem_mark=node.start_mark)
        return value

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # no other kind can be a key here
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def read_file(path: Path, option: str) -> dict[str, Any]:
    """The mapping in a YAML file, or in a `.json` one. Raises OptionError, which names `option`, and UsageError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(option, str(path), f"can't be read: {error.strerror}") from error
    try:
        values = json.loads(content) if path.suffix.lower() == ".json" else yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{place}: {error.problem or error}") from error
    except _UNREADABLE as error:
        raise UsageError(f"{path}: can't be understood: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no keys with values", hint="Write `key: value` lines; see docs/training.md.")
    return values


def with_overrides(values: Mapping[Any, Any], overrides: Sequence[str]) -> dict[Any, Any]:
    """`values` with what `section.key=value` puts in their place, the value read as YAML. Raises OptionError."""
    changed = dict(values)
    for override in overrides:
        name, equals, text = override.partition("=")
        section, _, key = name.strip().partition(".")
        if not equals or not section:
            raise OptionError("--set", override, "sets nothing; write section.key=value")
        try:
            value = yaml.load(text, _Loader)
        except _UNREADABLE as error:
            problem = getattr(error, "problem", None) or error
            raise OptionError("--set", override, f"has a value that can't be understood: {problem}") from error
        if not key:
            changed[section] = value
        elif isinstance(changed.setdefault(section, {}) or {}, dict):
            changed[section] = (changed[section] or {}) | {key: value}
    return changed


def read_sections(kind: type[T], values: Mapping[Any, Any], required: Collection[Sequence[str]]) -> T:
    """A `kind`, whose fields are dataclasses, one for each section of `values`.

    Of each entry of `required` one key has to be there. Raises UsageError, OptionError for a value of another type.
    """
    sections = get_type_hints(kind)
    everywhere = [f"{name}.{key}" for name, section in sections.items() for key in get_type_hints(section)]
    _refuse_unknown(values, sections, "", everywhere)
    given = {
        name: _spell_out({} if values.get(name) is None else values[name], section, name, everywhere)
        for name, section in sections.items()
    }
    there = {f"{name}.{key}" for name, section in given.items() for key, value in section.items() if value is not None}
    missing = [" or ".join(keys) for keys in required if there.isdisjoint(keys)]
    if missing:
        raise UsageError(f"the configuration lacks {listed(missing)}", hint="Add what is missing, or give it by --set.")
    return kind(**{name: read_typed(given[name], section, name) for name, section in sections.items()})


def read_fields(kind: type[T], values: Mapping[Any, Any], place: str) -> T:
    """A `kind` of `values`, which stand at `place`. Raises UsageError, OptionError for a value of another type."""
    made: T = read_typed(_spell_out(values, kind, place), kind, place)
    return made


def _spell_out(value: Any, kind: Any, place: str, everywhere: Sequence[str] = ()) -> Any:
    """`value` as a `kind` is written in full, where people may write less and YAML reads something else.

    A list may be a single entry without the brackets, of an entry that is a mapping a lone text is the first key; YAML
    reads on and off as true and false, and 1e-5 as a text. Raises UsageError for keys that aren't known.
    """
    kind = bare_type(kind)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise OptionError(place, value, "is not what stands here; write keys with values below it")
        hints = get_type_hints(kind, include_extras=True)
        _refuse_unknown(value, hints, f"{place}.", everywhere)
        return {name: _spell_out(each, hints[name], f"{place}.{name}") for name, each in value.items()}
    if get_origin(kind) is tuple:
        entry = get_args(kind)[0]
        entries = [] if value is None else value if isinstance(value, list) else [value]
        if is_dataclass(entry):
            first = fields(entry)[0].name
            entries = [{first: each} if isinstance(each, str) else each for each in entries]
        return [_spell_out(each, entry, f"{place}[{index}]") for index, each in enumerate(entries)]
    if isinstance(value, bool) and "on" in get_args(kind):
        return "on" if value else "off"
    if getattr(kind, "__origin__", kind) is float and not isinstance(value, bool):
        return _finite(value, place)
    return value


def _finite(value: Any, place: str) -> float:
    """A number that has an end, as YAML has it or as its text. Raises OptionError where it is none."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if math.isfinite(number := float(value)):
            return number
    raise OptionError(place, value, "is no number")


def _refuse_unknown(
    values: Mapping[Any, Any], known: Collection[str], prefix: str, everywhere: Sequence[str] = ()
) -> None:
    """Raise UsageError for the first key that isn't `known`; `everywhere` holds the dotted keys of all sections."""
    for key in map(str, values):
        if key not in known:
            raise UsageError(f"there is no key {prefix}{key}", hint=_hint(key, known, prefix, everywhere))


def _hint(key: str, known: Collection[str], prefix: str, everywhere: Sequence[str]) -> str:
    """Where `key` is, or what it may have been meant for."""
    last = key.rpartition(".")[2]
    homes = [each.partition(".")[0] for each in everywhere if each.partition(".")[2] == last]
    if homes:
        return f"{last} is in {listed(homes)}."
    for names, start in ((known, prefix), (everywhere, "")):
        by_name = {each.rpartition(".")[2]: each for each in names}
        for nearest in difflib.get_close_matches(last, by_name, n=1):
            return f"Did you mean {start}{by_name[nearest]}?"
    return f"Known here are {', '.join(known)}."
