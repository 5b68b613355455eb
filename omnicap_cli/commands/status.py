"""`omnicap status`: how far runs are, or how they ended. It reads no journal itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import takes_groups


@takes_groups()
def status(
    *,
    journals: Annotated[
        list[Path],
        typer.Argument(metavar="JOURNAL", help="JSONL files that runs write, or what they export to."),
    ],
    common: CommonFlags,
) -> None:
    """Show what is done, what failed and why, and the time left, of journals at rest or being written.

    Of several, such as those of shards, a line each and their total.
    """
    from omnicap_cli.core.runs.run_note import find_journal
    from omnicap_cli.core.runs.status import read_status, read_statuses, total_of
    from omnicap_cli.terminal.views import show_status, show_statuses

    if len(journals) == 1:
        show_status(common.console, read_status(find_journal(journals[0])), as_json=common.as_json)
        return
    entries = read_statuses(journals)
    total = total_of(entries)
    show_statuses(common.console, entries, total, as_json=common.as_json)
    if total.num_unreadable:
        raise typer.Exit(1)
