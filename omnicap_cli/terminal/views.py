"""How runs, journals and prompts look to a person, or as JSON to a program. `Console` does the writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import orjson

from omnicap_cli.core.files.words import duration, printable, without_surrogates
from omnicap_cli.terminal.console import Console

if TYPE_CHECKING:
    from omnicap_cli.core.prompts.catalogue import Catalogue
    from omnicap_cli.core.runs.journal_merging import MergeReport
    from omnicap_cli.core.runs.records import Prompt
    from omnicap_cli.core.runs.status import RunStatus, StatusEntry, StatusTotal
    from omnicap_cli.engines.diagnosis import Finding


_NUM_TEXT_COLUMNS: Final = 3  # of the table of several journals


def show_record(console: Console, *, as_json: bool) -> Callable[[bytes], None]:
    """What writes one encoded record: as it is, or readably on a terminal."""
    if as_json or not console.data_is_terminal:
        return console.data

    def show(line: bytes) -> None:
        record = orjson.loads(line)
        name = printable(record["id"]) + f"  ({record['type']}/{record['style']}/{record['lang']})"
        body = record["caption"] if record["status"] == "ok" else f"[{record['error']['message']}]"
        console.text(f"{console.bold(name)}\n{_without_controls(body) or '[no text]'}\n")

    return show


def show_plan(console: Console, plan: dict[str, Any], *, as_json: bool) -> None:
    """What `--dry-run` found."""
    lines = [f"{name.replace('_', ' '):>14}  {_plan_value(value)}" for name, value in plan.items()]
    show_report(console, plan, lines, as_json=as_json)


def _plan_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def show_status(console: Console, status: RunStatus, *, as_json: bool) -> None:
    """What `omnicap status` found."""
    if as_json:
        return show_json(console, asdict(status))
    rows = [
        ("journal", printable(status.journal)),
        ("  captioned", f"{status.num_ok:,}"),
        ("  failed", f"{status.num_failed:,}"),
        *((f"    {kind}", f"{count:,}") for kind, count in status.errors.items()),
        ("  tokens", f"{status.num_output_tokens:,}"),
    ]
    if status.num_broken_lines:
        rows.append(("  broken lines", f"{status.num_broken_lines:,}, passed over"))
    return _show_lines(console, rows_as_lines(rows + _run_rows(status)))


def _run_rows(status: RunStatus) -> list[tuple[str, str]]:
    """What the latest run had to do, which may be less than the journal holds, or more."""
    lasted = f", {duration(status.seconds)}" if status.seconds is not None else ""
    rows = [("latest run", status.state + lasted)]
    if status.num_handled is not None:
        of_all = f" of {status.num_requests:,}" if status.num_requests is not None else ""
        failed = f", {status.num_run_failed:,} of them failed" if status.num_run_failed else ""
        rows.append(("  handled", f"{status.num_handled:,}{of_all}{failed}"))
    if status.rate is not None:
        rows.append(("  rate", f"{status.rate:.2f}/s"))
    if status.num_left:
        left = f", {duration(status.seconds_left)}" if status.seconds_left is not None else ""
        rows.append(("  left", f"{status.num_left:,}{left}"))
    return rows


def show_statuses(console: Console, entries: Sequence[StatusEntry], total: StatusTotal, *, as_json: bool) -> None:
    """What `omnicap status` found of several journals."""
    from omnicap_cli.core.runs.shard_gaps import describe_shards

    missing = [str(shard) for shard in total.missing_shards]
    if as_json:
        journals = [_entry_as_json(entry) for entry in entries]
        return show_json(console, {"journals": journals, "total": asdict(total) | {"missing_shards": missing}})
    header = ("journal", "state", "shard", "done", "failed", "left", "rate", "time left")
    states = ", ".join(f"{count:,} {state}" for state, count in total.states.items())
    rows = [_entry_row(entry) for entry in entries]
    _show_table(console, [header, *rows, ("total", states, "", *_count_cells(total))])
    notes = [*((f"  {kind}", f"{count:,}") for kind, count in total.errors.items())]
    if total.num_broken_lines:
        notes.append(("broken lines", f"{total.num_broken_lines:,}, passed over"))
    if missing:
        notes.append(("missing", describe_shards(total.missing_shards)))
    return _show_lines(console, rows_as_lines(notes))


def _entry_as_json(entry: StatusEntry) -> dict[str, Any]:
    shard = {"shard": str(entry.shard) if entry.shard else None}
    if entry.status is None:
        return {"journal": entry.journal, "error": entry.error} | shard
    return asdict(entry.status) | shard


def _entry_row(entry: StatusEntry) -> tuple[str, ...]:
    name = printable(entry.journal)
    if entry.status is None:
        return name, f"error: {printable(entry.error or '')}"
    return name, entry.status.state, str(entry.shard or ""), *_count_cells(entry.status)


def _count_cells(status: RunStatus | StatusTotal) -> tuple[str, ...]:
    left = f"{status.num_left:,}" if status.num_left is not None else "?"
    rate = f"{status.rate:.2f}/s" if status.rate is not None else ""
    wait = duration(status.seconds_left) if status.seconds_left is not None else ""
    return f"{status.num_ok:,}", f"{status.num_failed:,}", left, rate, wait


def show_merge(console: Console, report: MergeReport, *, as_json: bool) -> None:
    """What `omnicap merge` joined of journals, or would."""
    rows = [
        ("records", f"{report.num_records:,}"),
        ("  captioned", f"{report.num_ok:,}"),
        ("  failed", f"{report.num_failed:,}"),
        *((f"    {kind}", f"{count:,}") for kind, count in report.errors.items()),
        ("duplicates", f"{report.num_duplicates:,}, dropped"),
        ("broken lines", f"{report.num_broken_lines:,}, left out"),
        ("journals", f"{report.num_journals:,}"),
    ]
    if report.num_shards is not None:
        num_there = report.num_shards - len(report.missing_shards)
        rows.append(("shards", f"{num_there:,} of {report.num_shards:,}"))
    rows.append(("output", printable(report.output or "") if report.written else "nothing written"))
    show_report(console, asdict(report), rows_as_lines(rows), as_json=as_json)


def show_catalogue(console: Console, catalogue: Catalogue, *, as_json: bool) -> None:
    """Every type with its styles."""
    if as_json:
        types = {
            kind.name: {
                "description": kind.description,
                "styles": {
                    style.name: {
                        "description": style.description,
                        "languages": list(style.prompts),
                        "aliases": [alias.name for alias in style.aliases],
                    }
                    for style in kind.styles.values()
                },
            }
            for kind in catalogue
        }
        return show_json(console, types)
    for kind in catalogue:
        console.text(f"{console.bold(kind.name)}  {kind.description}")
        for style in kind.styles.values():
            aliases = f"  (also {', '.join(alias.name for alias in style.aliases)})" if style.aliases else ""
            console.text(f"  {style.name:<17} {', '.join(style.prompts):<7} {style.description}{aliases}")
    return None


def show_prompts(console: Console, prompts: Iterable[Prompt], *, as_json: bool) -> None:
    """The texts of prompts."""
    for prompt in prompts:
        if as_json:
            console.data(orjson.dumps(asdict(prompt) | {"prompt_sha": prompt.sha}, option=orjson.OPT_APPEND_NEWLINE))
        else:
            console.text(console.bold(f"{prompt.name}  {prompt.sha}"))
            console.text(f"system: {prompt.system}\nuser: {prompt.user}\n")


def show_findings(console: Console, findings: Iterable[Finding], *, as_json: bool) -> None:
    """What `omnicap doctor` found."""
    if as_json:
        return show_json(console, [asdict(finding) for finding in findings])
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "-"
        fix = f"  →  {finding.fix}" if finding.fix else ""
        console.text(f"{mark:>7}  {finding.name:<19} {finding.detail}{fix}")
    return None


def show_report(console: Console, value: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """`lines` on a terminal; elsewhere, or where it is asked for, `value` as JSON."""
    if as_json or not console.data_is_terminal:
        show_json(console, value)
    else:
        _show_lines(console, lines)


def rows_as_lines(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values, one below the other."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _show_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.text(line)


def _show_table(console: Console, rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as their cells, numbers to the right. A row that is shorter than the first ends in a remark."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[0]) for row in rows), *(max(map(len, cells)) for cells in list(zip(*whole, strict=True))[1:])]
    for row in rows:
        *cells, last = row if len(row) < len(rows[0]) else (*row, "")
        aligned = (
            cell.ljust(width) if number < _NUM_TEXT_COLUMNS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=False))
        )
        console.text("  ".join((*aligned, last)).rstrip())


def show_json(console: Console, value: Any) -> None:
    """A value for programs."""
    console.data(orjson.dumps(without_surrogates(value), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _without_controls(text: str) -> str:
    """`text` without what could steer the terminal; line breaks and tabs stay."""
    return "".join(character if character in "\n\t" else printable(character) for character in text)
