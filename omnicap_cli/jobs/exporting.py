"""One export from its configuration to its exit code, for `convert` and `caption -o`: with its messages.

It knows no form of output.
"""

from __future__ import annotations

from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import export_journal
from omnicap_cli.terminal.console import Console


def run_export(config: ExportConfig, console: Console) -> int:
    """Write a journal in the form that is asked for; the exit code."""
    outcome = export_journal(config, show=console.data)
    for warning in outcome.warnings:
        console.warning(warning)
    console.info(outcome.summary(config.target))
    return outcome.exit_code
