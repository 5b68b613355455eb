"""How token counts of data sets look: what was counted, what was merged, and how long the sequences are.

It writes nothing itself: `Console` does.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from omnicap_cli.core.files.words import printable
from omnicap_cli.terminal.console import Console
from omnicap_cli.terminal.views import rows_as_lines, show_report

if TYPE_CHECKING:
    from omnicap_cli.datasets.lengths import LengthCounts
    from omnicap_cli.datasets.merging.merge_splits import DataMergeReport
    from omnicap_cli.datasets.tokenizing.all_splits import TokenizeReport

_EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_MAX_BAR: Final = 40
_NUM_SPACES: Final = 6  # of a line


def length_lines(lengths: LengthCounts, width: int = 80) -> list[str]:
    """What a person wants to know of lengths in tokens: a line of figures, then the histogram. Nothing of none."""
    if not lengths.num_sequences:
        return []
    figures = (f"{name} {value:,}" for name, value in lengths.summary().items())
    return [f"lengths: {', '.join(figures)}", *histogram_lines(lengths, width)]


def histogram_lines(lengths: LengthCounts, width: int) -> list[str]:
    """A line for each bucket, of at most `width` columns if these are 50 or more: lengths, bar, count and share.

    A bucket that is not empty has a bar, however small.
    """
    buckets = lengths.histogram()
    if not buckets:
        return []
    ranges = [f"{bucket.low:,}-{bucket.high:,}" for bucket in buckets]
    counts = [f"{bucket.num_sequences:,}" for bucket in buckets]
    shares = [f"{bucket.num_sequences / lengths.num_sequences:.1%}" for bucket in buckets]
    widths = [max(map(len, column)) for column in (ranges, counts, shares)]
    bar_width = min(_MAX_BAR, max(1, width - sum(widths) - _NUM_SPACES))
    most = max(bucket.num_sequences for bucket in buckets)
    bars = [_bar(bucket.num_sequences, most, bar_width) for bucket in buckets]
    return [
        f"{of:>{widths[0]}}  {bar:<{bar_width}}  {count:>{widths[1]}}  {share:>{widths[2]}}"
        for of, bar, count, share in zip(ranges, bars, counts, shares, strict=True)
    ]


def show_tokenize(console: Console, report: TokenizeReport, *, as_json: bool) -> None:
    """What `omnicap tokenize` counted."""
    rows = [
        ("records", f"{report.num_in:,}"),
        ("  kept", f"{report.num_kept:,}"),
        ("  rejected", f"{report.num_rejected:,}"),
        *((f"    {reason.replace('_', ' ')}", f"{count:,}") for reason, count in report.rejected.items()),
        *_token_rows(report),
        ("splits", f"{report.num_splits:,}"),
        ("output", printable(f"{report.output}/{report.name}_split*.jsonl")),
    ]
    if report.num_rejected:
        rows.append(("rejects", printable(f"{report.output}/rejects/{report.name}_split*.jsonl")))
    lines = [*rows_as_lines(rows), *length_lines(report.lengths)]
    show_report(console, asdict(report) | report.lengths.as_json(), lines, as_json=as_json)


def show_data_merge(console: Console, report: DataMergeReport, *, as_json: bool) -> None:
    """What `omnicap merge` joined of a data set, or would."""
    rows = [
        ("records", f"{report.num_records:,}"),
        ("duplicates", f"{report.num_duplicates:,}, dropped"),
        ("broken lines", f"{report.num_broken_lines:,}, left out"),
        *((f"  {reason.replace('_', ' ')}", f"{count:,}") for reason, count in report.broken_lines.items()),
        *_token_rows(report),
        ("files", f"{report.num_files:,}"),
        ("output", printable(report.output or "") if report.written else "nothing written"),
    ]
    lines = [*rows_as_lines(rows), *length_lines(report.lengths)]
    show_report(console, asdict(report) | report.lengths.as_json(), lines, as_json=as_json)


def _token_rows(report: TokenizeReport | DataMergeReport) -> list[tuple[str, str]]:
    return [
        ("tokens", f"{report.num_sequence_tokens:,}"),
        ("  of texts", f"{report.num_text_tokens:,}"),
        ("  of pictures", f"{report.num_image_tokens:,}"),
    ]


def _bar(count: int, most: int, width: int) -> str:
    num_eighths = max(round(count * width * 8 / most), min(count, 1))
    return "█" * (num_eighths // 8) + _EIGHTHS[num_eighths % 8]
