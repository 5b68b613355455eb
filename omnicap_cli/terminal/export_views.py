"""What `omnicap export` shows: the model that it wrote."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from omnicap_cli.core.files.words import printable
from omnicap_cli.terminal.console import Console
from omnicap_cli.terminal.views import rows_as_lines, show_json

if TYPE_CHECKING:
    from omnicap_cli.training.export.model_folder import ModelExportReport


def show_model_export(console: Console, report: ModelExportReport, *, as_json: bool) -> None:
    """A table on a terminal, JSON elsewhere."""
    if as_json or not console.data_is_terminal:
        return show_json(console, asdict(report))
    rows = [("model", printable(report.output)), ("checkpoint", printable(report.checkpoint))]
    if report.base:
        rows.append(("merged into", printable(report.base)))
    files = "1 file" if report.num_weight_files == 1 else f"{report.num_weight_files:,} files"
    rows.append(("weights", f"{report.num_parameters:,} parameters in {report.dtype}, {files}"))
    rows.append(("size", f"{report.num_bytes / 1e6:,.1f} MB"))
    for line in rows_as_lines(rows):
        console.text(line)
    return None
