"""`omnicap status`: how far a run is, or how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.options import AsJson, Debug, NoColor, OptionsFile, Quiet, Verbose, make_console


def status(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="The JSONL file that a run writes.")],
    as_json: AsJson = False,
    _options: OptionsFile = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """Show what is done, what failed and why, and the time left, of a journal at rest or being written."""
    from omnicap_cli.core.status import read_status
    from omnicap_cli.views import show_status

    console = make_console(quiet=quiet, verbose=verbose, no_color=no_color)
    show_status(console, read_status(journal), as_json=as_json)
