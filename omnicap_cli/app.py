"""The command line: registers the commands and turns errors into messages and exit codes. It does no work itself."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from omnicap_cli import __version__
from omnicap_cli.commands import caption, convert, doctor, export, merge, prompts, status, tokenize, train
from omnicap_cli.commands.options import DEBUG_VARIABLE, unknown_variables
from omnicap_cli.errors import OmnicapError
from omnicap_cli.terminal.console import Console, OutputClosedError, open_missing_streams

app = typer.Typer(
    name="omnicap",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(caption.caption)
app.command()(status.status)
app.command()(convert.convert)
app.command("tokenize")(tokenize.tokenize_data)
app.command()(merge.merge)
app.command()(train.train)
app.command("export")(export.export_model)
app.add_typer(prompts.app, name="prompts")
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().text(f"omnicap {__version__}")
        raise typer.Exit


@app.callback()
def omnicap(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Caption anything from the shell: photographs, scans, PDFs, screens, tables, charts, equations."""
    for name, nearest in unknown_variables(context.command):
        Console().warning(f"the variable {name} means nothing" + (f"; did you mean {nearest}?" if nearest else ""))


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some items failed, 130 interrupted."""
    open_missing_streams()
    try:
        app(prog_name="omnicap")
    except OutputClosedError:
        sys.exit(0)
    except OmnicapError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        Console().error(error)
        sys.exit(error.exit_code)
