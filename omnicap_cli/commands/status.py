"""`omnicap status`: how far runs are, or how they ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.options import AsJson, Debug, NoColor, OptionsFile, Quiet, Verbose, make_console


def status(
    journals: Annotated[
        list[Path],
        typer.Argument(metavar="JOURNAL", help="JSONL files that runs write, or what they export to."),
    ],
    as_json: AsJson = False,
    _options: OptionsFile = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """Show what is done, what failed and why, and the time left, of journals at rest or being written.

    Of several, such as those of shards, a line each and their total.
    """
    from omnicap_cli.core.runs.run_note import find_journal
    from omnicap_cli.core.runs.status import read_status, read_statuses, total_of
    from omnicap_cli.terminal.views import show_status, show_statuses

    console = make_console(quiet=quiet, verbose=verbose, no_color=no_color)
    if len(journals) == 1:
        show_status(console, read_status(find_journal(journals[0])), as_json=as_json)
        return
    entries = read_statuses(journals)
    total = total_of(entries)
    show_statuses(console, entries, total, as_json=as_json)
    if total.num_unreadable:
        raise typer.Exit(1)
