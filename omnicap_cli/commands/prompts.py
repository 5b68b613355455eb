"""`omnicap prompts`: the catalogue of what can be asked. It knows no prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.groups import CommonFlags, PromptsFile
from omnicap_cli.commands.options import option, takes_groups

app = typer.Typer(help="The catalogue of prompts: types, styles and languages.", no_args_is_help=True)


@app.command("list")
@takes_groups(without=("quiet", "verbose"))
def list_prompts(*, prompts: PromptsFile = None, common: CommonFlags) -> None:
    """List every type with its styles, their languages and other names."""
    from omnicap_cli.core.prompts.catalogue import Catalogue
    from omnicap_cli.terminal.views import show_catalogue

    show_catalogue(common.console, Catalogue.load(prompts), as_json=common.as_json)


@app.command("show")
@takes_groups(without=("quiet", "verbose"))
def print_prompts(
    *,
    type: Annotated[str, typer.Argument(help="A type, as `omnicap prompts list` names it.")],
    style: Annotated[str, typer.Argument(help="A style of it; NAME,NAME or all.")] = "all",
    lang: Annotated[str, option("-l", help="en, zh or all.")] = "all",
    prompts: PromptsFile = None,
    common: CommonFlags,
) -> None:
    """Print the texts of prompts in full."""
    from omnicap_cli.core.prompts.catalogue import Catalogue
    from omnicap_cli.terminal.views import show_prompts

    chosen = Catalogue.load(prompts).select(type, style.split(","), lang)
    show_prompts(common.console, chosen, as_json=common.as_json)


@app.command("import")
@takes_groups(without=("as_json",))
def import_script(
    *,
    script: Annotated[
        Path, typer.Argument(metavar="FILE.py", help="The inference script that was published with a model.")
    ],
    output: Annotated[
        str | None, option("-o", help="TOML file for --prompts; without it, stdout.", metavar="PATH")
    ] = None,
    overwrite: Annotated[bool, option(help="Replace a file that is there.")] = False,
    common: CommonFlags,
) -> None:
    """Write the prompts of a model's own inference script as a file for --prompts.

    The script is read, never run. What in it is not certain is left out, and named with its line.
    """
    from omnicap_cli.prompt_import.importer import check_output, import_prompts, write_catalogue

    console = common.console
    target = None if output in (None, "-") else Path(str(output))
    if target:
        check_output(target, script, overwrite=overwrite)
    found = import_prompts(script)
    for problem in found.problems:
        console.warning(problem)
    if target:
        write_catalogue(found.toml, target)
    else:
        console.data(found.toml.encode())
    console.info(found.summary(target))
