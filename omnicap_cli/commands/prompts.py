"""`omnicap prompts`: the catalogue of what can be asked. It knows no prompt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.groups import CommonFlags, PromptsFile
from omnicap_cli.commands.options import option, takes_groups
from omnicap_cli.core.files.atomic import writing
from omnicap_cli.errors import OptionError

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

    The script is read, never run. What it builds at run time is left out, and named with its line.
    """
    from omnicap_cli.core.prompts.script_import.importer import import_prompts

    console = common.console
    target = None if output in (None, "-") else Path(str(output))
    if target:
        _check_output(target, script, overwrite=overwrite)
    prompts = import_prompts(script)
    for problem in prompts.problems:
        console.warning(problem)
    if target:
        with writing(target) as file:
            file.write(prompts.toml.encode())
    else:
        console.data(prompts.toml.encode())
    console.info(prompts.summary(target))


def _check_output(output: Path, script: Path, *, overwrite: bool) -> None:
    try:
        faults = {
            "is the script itself": output.exists() and script.exists() and output.samefile(script),
            "is there and is not a file": os.path.lexists(output) and not output.is_file(),
            "is there already": output.is_file() and not overwrite,
            "is in a folder that isn't there": not output.resolve().parent.is_dir(),
        }
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a NUL in the name
        faults = {f"can't be used: {getattr(error, 'strerror', None) or error}": True}
    for fault in (fault for fault, is_so in faults.items() if is_so):
        hint = "Choose another place with -o, or pass --overwrite to replace a file."
        raise OptionError("--output", str(output), fault, hint=hint)
