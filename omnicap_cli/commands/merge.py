"""`omnicap merge`: what the tasks of an array wrote, as one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from omnicap_cli.commands.options import AsJson, Debug, NoColor, OptionsFile, Quiet, Verbose, make_console, option
from omnicap_cli.core.files.words import printable
from omnicap_cli.errors import ITEMS_FAILED, UsageError
from omnicap_cli.terminal.console import Console

_DATA_ONLY = "Splits of a data set"


def merge(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="JOURNAL|SPLIT|DIR",
            help="The JSONL files that runs with --shard, or `omnicap tokenize`, wrote; or the folder of the splits.",
        ),
    ],
    output: Annotated[Path | None, option("-o", "--output", help="JSONL file for all records.", readable=False)] = None,
    allow_missing: Annotated[
        bool, option("--allow-missing", help="Merge what is there, though parts are missing or not finished.")
    ] = False,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the output.")] = False,
    dry_run: Annotated[bool, option("--dry-run", "--stats-only", help="Check and count; write nothing.")] = False,
    sort_by_length: Annotated[
        bool, option("--sort-by-length", help="Shortest sequences first.", panel=_DATA_ONLY)
    ] = False,
    keep_duplicates: Annotated[
        bool,
        option(
            "--keep-duplicates",
            help="Keep records with the same id, pictures and conversation.",
            panel=_DATA_ONLY,
        ),
    ] = False,
    as_json: AsJson = False,
    _options: OptionsFile = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """Join the splits of a data set, or the journals of shards, into one file.

    Refuses if a part is missing or not finished. Of splits each line is checked, and what is there twice is kept once;
    the output may end in .gz or .zst. Of journals one record of a request is kept, with a caption if any has one, and
    `omnicap caption -o` can go on from the output.
    """
    console = make_console(quiet=quiet, verbose=verbose, no_color=no_color)
    choices: _Choices = {
        "inputs": tuple(inputs),
        "output": output,
        "overwrite": overwrite,
        "allow_missing": allow_missing,
        "dry_run": dry_run,
    }
    data_only = {"sort_by_length": sort_by_length, "keep_duplicates": keep_duplicates}
    raise typer.Exit(_merge(console, choices, data_only, as_json=as_json))


class _Choices(TypedDict):
    """The options that mean the same for splits and for journals."""

    inputs: tuple[Path, ...]
    output: Path | None
    overwrite: bool
    allow_missing: bool
    dry_run: bool


def _merge(console: Console, choices: _Choices, data_only: dict[str, bool], *, as_json: bool) -> int:
    """Merge whichever kind the inputs are; the exit code."""
    from omnicap_cli.datasets.merging.find_splits import holds_training_data

    if holds_training_data(choices["inputs"]):
        return _merge_data(console, choices, data_only, as_json=as_json)
    for name in filter(data_only.get, data_only):
        problem = "is for splits of a data set, and these are journals of captions"
        raise UsageError(f"--{name.replace('_', '-')} {problem}", hint="Leave it out.")
    return _merge_journals(console, choices, as_json=as_json)


def _merge_data(console: Console, choices: _Choices, data_only: dict[str, bool], *, as_json: bool) -> int:
    from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data
    from omnicap_cli.terminal.length_views import show_data_merge

    report = merge_data(DataMergeConfig(**choices, **data_only), lambda message: console.warning(printable(message)))
    show_data_merge(console, report, as_json=as_json)
    return ITEMS_FAILED if report.num_broken_lines else 0


def _merge_journals(console: Console, choices: _Choices, *, as_json: bool) -> int:
    from omnicap_cli.core.runs.journal_merging import MergeConfig, merge_journals
    from omnicap_cli.terminal.views import show_merge

    config = MergeConfig(**choices, command=("omnicap", *sys.argv[1:]))
    report = merge_journals(config, lambda message: console.warning(printable(message)))
    show_merge(console, report, as_json=as_json)
    return ITEMS_FAILED if report.num_failed else 0
