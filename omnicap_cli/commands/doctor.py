"""`omnicap doctor`: what is installed, found and usable here."""

from __future__ import annotations

import typer

from omnicap_cli.commands.options import AsJson, Debug, NoColor, OptionsFile, make_console


def doctor(
    as_json: AsJson = False, _options: OptionsFile = None, no_color: NoColor = False, _debug: Debug = False
) -> None:
    """Check this installation, and name the command that mends what is missing.

    Exit code 1 if something that the base install needs is missing.
    """
    from omnicap_cli.engines.diagnosis import examine
    from omnicap_cli.terminal.views import show_findings

    findings = examine()
    show_findings(make_console(quiet=False, verbose=0, no_color=no_color), findings, as_json=as_json)
    raise typer.Exit(1 if any(finding.needed and not finding.ok for finding in findings) else 0)
