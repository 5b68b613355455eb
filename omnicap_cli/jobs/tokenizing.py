"""One run of `omnicap tokenize` from its options to its exit code: with its messages. It counts nothing itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omnicap_cli.core.files.words import printable, without_surrogates
from omnicap_cli.core.models.machine import num_cores
from omnicap_cli.datasets.tokenizing.all_splits import TokenizeConfig, TokenizeReport, plan, tokenize_splits
from omnicap_cli.datasets.tokenizing.split_run import Step, StoppedError
from omnicap_cli.errors import ITEMS_FAILED, UsageError
from omnicap_cli.terminal.console import Console, open_stdin
from omnicap_cli.terminal.dataset_views import show_tokenize
from omnicap_cli.terminal.interrupts import catching_signals
from omnicap_cli.terminal.progress import make_progress
from omnicap_cli.terminal.views import show_plan

_SUFFIXES = (".gz", ".zst", ".bz2", ".jsonl", ".ndjson", ".json")


def make_tokenize_config(
    *,
    data: str | None,
    output: Path | None,
    name: str | None,
    splits: int | None,
    split_index: int | None,
    split_num: int | None,
    workers: int | None,
    **others: Any,
) -> TokenizeConfig:
    """What the options mean together. Raises UsageError."""
    if data is None:
        raise UsageError("no data is named", hint="Give a file of JSON lines, or - for the standard input.")
    if output is None:
        raise UsageError("no folder for the splits is named", hint="Name one with -o.")
    if (split_index is None) != (split_num is None):
        raise UsageError("--split-index and --split-num go together", hint="Give both, or --splits N for all splits.")
    if splits is not None and split_num is not None:
        raise UsageError("--splits makes all splits, --split-index one of them", hint="Give one of the two.")
    return TokenizeConfig(
        data=data,
        output=output,
        name=name or _name_without_suffixes(data),
        num_splits=next((number for number in (split_num, splits) if number is not None), 1),
        split_index=split_index,
        num_workers=num_cores() if workers is None else workers,
        **others,
    )


def run_tokenize(config: TokenizeConfig, console: Console, *, dry_run: bool, as_json: bool) -> int:
    """Make the splits, or only show what there is to do; the exit code."""
    stdin = open_stdin() if config.data == "-" else open(os.devnull, "rb")  # noqa: SIM115  until the process ends
    if dry_run:
        show_plan(console, plan(config, stdin), as_json=as_json)
        return 0
    progress = make_progress(console, on_terminal=console.is_terminal)
    num_in = num_rejected = 0
    has_begun = False

    def say_stopping() -> None:
        console.info("stopping; again to stop at once")
        if not has_begun:  # it may wait for a pipe, or read a large file: nobody looks at `stop` yet
            raise KeyboardInterrupt

    def begin(num_lines: int) -> None:
        nonlocal has_begun
        has_begun, progress.num_total = True, num_lines

    def tell(step: Step) -> None:
        nonlocal num_in, num_rejected
        num_in, num_rejected = num_in + step.num_in, num_rejected + step.num_rejected
        progress.update(num_finished=num_in, num_handled=num_in, num_failed=num_rejected)
        if interrupts.stop.is_set():
            raise StoppedError

    with catching_signals(say_stopping) as interrupts:
        try:
            report = tokenize_splits(
                config, stdin, begin=begin, tell=tell, warn=lambda each: console.warning(printable(each))
            )
        except (StoppedError, KeyboardInterrupt):
            but_how = ", without --overwrite" if config.overwrite else ""
            console.info(f"interrupted; run the same command again to go on{but_how}")
            return interrupts.exit_code or 1
        finally:
            progress.stop()
    return _conclude(config, report, console, as_json=as_json)


def _conclude(config: TokenizeConfig, report: TokenizeReport, console: Console, *, as_json: bool) -> int:
    """Show what was counted; the exit code."""
    if not report.num_in:
        console.warning("there are no records in these lines: nothing to do")
    show_tokenize(console, report, as_json=as_json)
    if report.num_rejected and not console.data_is_terminal:
        console.info(f"{report.num_rejected:,} rejected → {printable(str(config.output / 'rejects'))}")
    return ITEMS_FAILED if report.num_rejected else 0


def _name_without_suffixes(data: str) -> str:
    name: str = without_surrogates(Path(data).name) if data != "-" else "stdin"
    while name.endswith(_SUFFIXES):
        name = name.rpartition(".")[0]
    return name
