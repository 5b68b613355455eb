"""`omnicap merge`: what the tasks of an array wrote, as one file. It knows the two kinds, and joins neither."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import option, takes_groups
from omnicap_cli.errors import ITEMS_FAILED, UsageError

_SPLITS_ONLY = "Splits of a data set"


@takes_groups()
def merge(
    *,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="JOURNAL|SPLIT|DIR",
            help="The JSONL files that runs with --shard, or `omnicap tokenize`, wrote; or the folder of the splits.",
        ),
    ],
    output: Annotated[Path | None, option("-o", help="JSONL file for all records.", readable=False)] = None,
    allow_missing: Annotated[
        bool, option(help="Merge what is there, though parts are missing or not finished.")
    ] = False,
    overwrite: Annotated[bool, option(help="Replace the output.")] = False,
    dry_run: Annotated[bool, option("--dry-run", "--stats-only", help="Check and count; write nothing.")] = False,
    sort_by_length: Annotated[bool, option(help="Shortest sequences first.", panel=_SPLITS_ONLY)] = False,
    keep_duplicates: Annotated[
        bool, option(help="Keep records with the same id, pictures and conversation.", panel=_SPLITS_ONLY)
    ] = False,
    common: CommonFlags,
) -> None:
    """Join the splits of a data set, or the journals of shards, into one file.

    Refuses if a part is missing or not finished. Of splits each line is checked, and what is there twice is kept once;
    the output may end in .gz or .zst. Of journals one record of a request is kept, with a caption if any has one, and
    `omnicap caption -o` can go on from the output.
    """
    from omnicap_cli.datasets.merging.find_splits import holds_training_data

    choices: _SharedChoices = {
        "inputs": tuple(inputs),
        "output": output,
        "overwrite": overwrite,
        "allow_missing": allow_missing,
        "dry_run": dry_run,
    }
    if holds_training_data(choices["inputs"]):
        exit_code = _merge_splits(common, choices, sort_by_length=sort_by_length, keep_duplicates=keep_duplicates)
        raise typer.Exit(exit_code)
    for name, is_given in (("--sort-by-length", sort_by_length), ("--keep-duplicates", keep_duplicates)):
        if is_given:
            problem = f"{name} is for splits of a data set, and these are journals of captions"
            raise UsageError(problem, hint="Leave it out.")
    raise typer.Exit(_merge_shards(common, choices))


class _SharedChoices(TypedDict):
    """The options that mean the same for splits and for journals."""

    inputs: tuple[Path, ...]
    output: Path | None
    overwrite: bool
    allow_missing: bool
    dry_run: bool


def _merge_splits(common: CommonFlags, choices: _SharedChoices, *, sort_by_length: bool, keep_duplicates: bool) -> int:
    """Join splits of training data; the exit code."""
    from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data
    from omnicap_cli.terminal.dataset_views import show_data_merge

    config = DataMergeConfig(**choices, sort_by_length=sort_by_length, keep_duplicates=keep_duplicates)
    report = merge_data(config, common.warn)
    show_data_merge(common.console, report, as_json=common.as_json)
    return ITEMS_FAILED if report.num_broken_lines else 0


def _merge_shards(common: CommonFlags, choices: _SharedChoices) -> int:
    """Join journals of captions; the exit code."""
    from omnicap_cli.core.runs.journal_merging import MergeConfig, merge_journals
    from omnicap_cli.terminal.views import show_merge

    config = MergeConfig(**choices, command=("omnicap", *sys.argv[1:]))
    report = merge_journals(config, common.warn)
    show_merge(common.console, report, as_json=common.as_json)
    return ITEMS_FAILED if report.num_failed else 0
