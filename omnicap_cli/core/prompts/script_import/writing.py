"""Prompts as a catalogue in TOML, in the form that `--prompts` reads. It knows nothing of where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from omnicap_cli.core.prompts.catalogue import LANGUAGES, Catalogue, Style, is_name
from omnicap_cli.core.prompts.script_import.places import CatalogueKey, split_language
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OmnicapError

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHORT_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_ESCAPED: Final = re.compile(r'[\\"\x00-\x1f\x7f-\x9f\ufeff]')
_ESCAPED_IN_LINES: Final = re.compile(r'[\\\x00-\x09\x0b-\x1f\x7f-\x9f\ufeff]|"(?="")|[ ](?=\n)')


class ImportedPrompt(NamedTuple):
    """The texts of a prompt, and the keys of the script that select it."""

    system: str
    user: str
    keys: list[str]


def as_toml(prompts: Mapping[CatalogueKey, ImportedPrompt], catalogue: Catalogue, *, title: str) -> str:
    """The content of a catalogue file that lies over `catalogue`; its texts are exactly those of `prompts`."""
    lines = [f"# {title}"]
    styles: dict[tuple[str, str], dict[str, ImportedPrompt]] = {}
    for key in sorted(prompts, key=lambda each: _order(each, catalogue)):
        styles.setdefault((key.type, key.style), {})[key.lang] = prompts[key]
    for (kind, name), by_language in styles.items():
        known = catalogue.types[kind].styles.get(name) if kind in catalogue.types else None
        lines += _style_lines(kind, name, known, by_language)
    return "\n".join(lines) + "\n"


def check_toml(text: str, prompts: Mapping[CatalogueKey, ImportedPrompt]) -> None:
    """Read a catalogue file back, by every name that it gives. Raises OmnicapError where a text isn't the same."""
    catalogue = Catalogue.parse(text, "prompts.toml")
    for (kind, style, lang), prompt in prompts.items():
        names = catalogue.types[kind].styles[style].names
        expected = Prompt(type=kind, style=style, lang=lang, system=prompt.system, user=prompt.user)
        for name in [style, *(key for key in prompt.keys if key in names)]:
            if catalogue.select(kind, [name], lang) != [expected]:
                raise OmnicapError(f"{kind}/{style}/{lang} can't be read back by the name {name!r}")


def quoted(text: str) -> str:
    """A TOML string: over several lines where the text has them, so that people can read it."""
    if "\n" not in text:
        return f'"{_ESCAPED.sub(_escape, text)}"'
    return f'"""\n{_ESCAPED_IN_LINES.sub(_escape, text)}"""'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04X}"


def _order(key: CatalogueKey, catalogue: Catalogue) -> tuple[int, int, int]:
    """As in the catalogue; what is new there comes last, in the order of the script."""
    known = catalogue.types.get(key.type)
    kinds, styles = [*catalogue.types, key.type], [*(known.styles if known else ()), key.style]
    return kinds.index(key.type), styles.index(key.style), LANGUAGES.index(key.lang)


def _style_lines(kind: str, name: str, style: Style | None, prompts: Mapping[str, ImportedPrompt]) -> Iterator[str]:
    """A style with the languages that were imported, and with the script's keys as aliases."""
    names = ("types", kind, "styles", name)
    header = ".".join(each if _BARE_KEY.fullmatch(each) else quoted(each) for each in names)
    known = {name, *(style.names if style else [])}
    new = {lang: [key for key in each.keys if key not in known and is_name(key)] for lang, each in prompts.items()}
    of_style = [alias for aliases in new.values() for alias in aliases if split_language(alias)[1] is None]
    if of_style:
        yield from (f"\n[{header}]", _alias_line(style, None, of_style))
    for lang, prompt in prompts.items():
        own = [alias for alias in new[lang] if alias not in of_style]
        yield f"\n[{header}.{lang}]"
        if own:
            yield _alias_line(style, lang, own)
        yield from (f"system = {quoted(prompt.system)}", f"user = {quoted(prompt.user)}")


def _alias_line(style: Style | None, lang: str | None, new: list[str]) -> str:
    """The list replaces the one below it, so it repeats what stands there."""
    there = [alias.name for alias in style.aliases if alias.lang == lang] if style else []
    return f"aliases = [{', '.join(quoted(alias) for alias in dict.fromkeys([*there, *new]))}]"
