"""`omnicap prompts`: the catalogue of what can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.options import AsJson, Debug, NoColor, OptionsFile, make_console, option

app = typer.Typer(help="The catalogue of prompts: types, styles and languages.", no_args_is_help=True)

PromptsFile = Annotated[Path | None, option("--prompts", help="TOML file of prompts, merged over the built-in ones.")]


@app.command("list")
def list_prompts(
    prompts: PromptsFile = None,
    as_json: AsJson = False,
    _options: OptionsFile = None,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """List every type with its styles, their languages and other names."""
    from omnicap_cli.core.prompts import Catalogue
    from omnicap_cli.views import show_catalogue

    show_catalogue(make_console(quiet=False, verbose=0, no_color=no_color), Catalogue.load(prompts), as_json=as_json)


@app.command("show")
def show(
    type: Annotated[str, typer.Argument(help="A type, as `omnicap prompts list` names it.")],
    style: Annotated[str, typer.Argument(help="A style of it; NAME,NAME or all.")] = "all",
    lang: Annotated[str, option("-l", "--lang", help="en, zh or all.")] = "all",
    prompts: PromptsFile = None,
    as_json: AsJson = False,
    _options: OptionsFile = None,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """Print the texts of prompts in full."""
    from omnicap_cli.core.prompts import Catalogue
    from omnicap_cli.views import show_prompts

    chosen = Catalogue.load(prompts).select(type, style.split(","), lang)
    show_prompts(make_console(quiet=False, verbose=0, no_color=no_color), chosen, as_json=as_json)
