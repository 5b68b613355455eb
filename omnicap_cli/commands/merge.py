"""`omnicap merge`: what the tasks of an array wrote, as one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.errors import ITEMS_FAILED
from omnicap_cli.options import AsJson, Debug, NoColor, OptionsFile, Quiet, Verbose, make_console, option


def merge(
    journals: Annotated[
        list[Path], typer.Argument(metavar="JOURNAL", help="The JSONL files that runs with --shard wrote.")
    ],
    output: Annotated[Path | None, option("-o", "--output", help="JSONL file for all records.", readable=False)] = None,
    allow_missing: Annotated[
        bool, option("--allow-missing", help="Merge what is there, though shards are missing or not finished.")
    ] = False,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the output.")] = False,
    dry_run: Annotated[bool, option("--dry-run", "--stats-only", help="Check and count; write nothing.")] = False,
    as_json: AsJson = False,
    _options: OptionsFile = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """Join the journals of shards into one, which `omnicap caption -o` can go on from.

    Refuses if a shard is missing or not finished. Of several records of a request it keeps one, with a caption if any
    has one.
    """
    from omnicap_cli.core.merging import MergeConfig, merge_journals
    from omnicap_cli.media.names import printable
    from omnicap_cli.views import show_merge

    console = make_console(quiet=quiet, verbose=verbose, no_color=no_color)
    config = MergeConfig(
        inputs=tuple(journals),
        output=output,
        overwrite=overwrite,
        allow_missing=allow_missing,
        dry_run=dry_run,
        command=("omnicap", *sys.argv[1:]),
    )
    report = merge_journals(config, lambda message: console.warning(printable(message)))
    show_merge(console, report, as_json=as_json)
    raise typer.Exit(ITEMS_FAILED if report.num_failed else 0)
