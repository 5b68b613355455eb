"""What a shell offers for the value of an option. It reads catalogues of names, and decides nothing about a run."""

from __future__ import annotations

from collections.abc import Iterable

import typer


def complete_type(incomplete: str) -> list[str]:
    """The types of the built-in catalogue."""
    from omnicap_cli.core.prompts.catalogue import Catalogue

    return _beginning_with(incomplete, (*Catalogue.load().types, "auto"))


def complete_style(context: typer.Context, incomplete: str) -> list[str]:
    """The styles of the type that the command line names."""
    from omnicap_cli.core.prompts.catalogue import Catalogue

    chosen = Catalogue.load().types.get(context.params.get("type", ""))
    return _beginning_with(incomplete, (*(chosen.styles if chosen else ()), "all"))


def complete_language(incomplete: str) -> list[str]:
    """The languages of prompts."""
    return _beginning_with(incomplete, ("en", "zh", "all"))


def complete_engine(incomplete: str) -> list[str]:
    """The engines of this version."""
    from omnicap_cli.engines.registry import ENGINES

    return _beginning_with(incomplete, ("auto", *(name for name, spec in ENGINES.items() if spec.here)))


def complete_format(incomplete: str) -> list[str]:
    """The forms that a journal can be brought into."""
    from omnicap_cli.exports.formats import FORMATS

    return _beginning_with(incomplete, FORMATS)


def _beginning_with(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(start)]
