"""Prompts as a catalogue in TOML, in the form that `--prompts` reads. It knows nothing of where they come from."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from omnicap_cli.core.prompts.catalogue import LANGUAGES, Catalogue, Style
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OmnicapError
from omnicap_cli.prompt_import.places import Place, split_language
from omnicap_cli.prompt_import.search import Found

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHORT_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_ESCAPED: Final = re.compile(r'[\\"\x00-\x1f\x7f-\x9f\ufeff]')
_ESCAPED_IN_LINES: Final = re.compile(r'[\\\x00-\x09\x0b-\x1f\x7f-\x9f\ufeff]|"(?="")|[ ](?=\n)')


def as_toml(found: Mapping[Place, Found], catalogue: Catalogue, *, title: str) -> str:
    """The content of a catalogue file that lies over `catalogue`; its texts are exactly those of `found`."""
    lines = [f"# {title}"]
    styles: dict[tuple[str, str], list[Place]] = {}
    for place in sorted(found, key=lambda each: _order(each, catalogue)):
        styles.setdefault(place[:2], []).append(place)
    for (kind, name), places in styles.items():
        style = _known_style(catalogue, kind, name)
        lines += _style_lines(kind, name, style, {place.lang: found[place] for place in places})
    return "\n".join(lines) + "\n"


def check_toml(text: str, found: Mapping[Place, Found]) -> None:
    """Read a catalogue file back, by every name that it gives. Raises OmnicapError where a text isn't the same."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prompts.toml"
            path.write_bytes(text.encode())
            catalogue = Catalogue.load(path)
    except OSError as error:
        raise OmnicapError(f"can't write a temporary file: {error.strerror}", hint="Set TMPDIR.") from error
    for place, texts in found.items():
        style = catalogue.types[place.type].styles[place.style]
        names = [place.style, *(key for key in texts.keys if key in style.names)]
        for name in names:
            asked = Prompt(type=place.type, style=place.style, lang=place.lang, system=texts.system, user=texts.user)
            if catalogue.select(place.type, [name], place.lang) != [asked]:
                raise OmnicapError(f"{'/'.join(place)} can't be read back by the name {name!r}")


def quoted(text: str) -> str:
    """A TOML string: over several lines where the text has them, so that people can read it."""
    if "\n" not in text:
        return f'"{_ESCAPED.sub(_escape, text)}"'
    return f'"""\n{_ESCAPED_IN_LINES.sub(_escape, text)}"""'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04X}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else quoted(name)


def _order(place: Place, catalogue: Catalogue) -> tuple[int, int, int]:
    """As in the catalogue; what is new there comes last, in the order of the script."""
    kinds = list(catalogue.types)
    kind = catalogue.types.get(place.type)
    styles = list(kind.styles) if kind else []
    return (
        kinds.index(place.type) if kind else len(kinds),
        styles.index(place.style) if place.style in styles else len(styles),
        LANGUAGES.index(place.lang),
    )


def _known_style(catalogue: Catalogue, kind: str, name: str) -> Style | None:
    found = catalogue.types.get(kind)
    return found.styles.get(name) if found else None


def _style_lines(kind: str, name: str, style: Style | None, texts: Mapping[str, Found]) -> Iterator[str]:
    """A style with the languages that were found, and with the script's keys as aliases."""
    place = f"types.{_key(kind)}.styles.{_key(name)}"
    known = [] if style is None else style.names
    new = {lang: _new_aliases(name, known, found) for lang, found in texts.items()}
    of_style = [alias for lang in new for alias in new[lang] if split_language(alias)[1] is None]
    yield from _alias_lines(f"\n[{place}]", style, None, of_style, always=False)
    for lang, found in texts.items():
        own = [alias for alias in new[lang] if alias not in of_style]
        yield from _alias_lines(f"\n[{place}.{lang}]", style, lang, own, always=True)
        yield f"system = {quoted(found.system)}"
        yield f"user = {quoted(found.user)}"


def _new_aliases(name: str, known: list[str], found: Found) -> list[str]:
    return [key for key in found.keys if key != name and key not in known and re.fullmatch(r"[\w-]+", key)]


def _alias_lines(header: str, style: Style | None, lang: str | None, new: list[str], *, always: bool) -> Iterator[str]:
    """The list replaces the one below it, so it repeats what stands there."""
    if new or always:
        yield header
    if new:
        there = [alias.name for alias in style.aliases if alias.lang == lang] if style else []
        yield f"aliases = [{', '.join(quoted(alias) for alias in dict.fromkeys([*there, *new]))}]"
