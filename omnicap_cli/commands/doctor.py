"""`omnicap doctor`: what is installed, found and usable here. It knows no check, only what their outcome means."""

from __future__ import annotations

import typer

from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import takes_groups


@takes_groups(without=("quiet", "verbose"))
def doctor(common: CommonFlags) -> None:
    """Check this installation, and name the command that mends what is missing.

    Exit code 1 if something that the base install needs is missing.
    """
    from omnicap_cli.engines.diagnosis import examine
    from omnicap_cli.terminal.views import show_findings

    findings = examine()
    show_findings(common.console, findings, as_json=common.as_json)
    raise typer.Exit(1 if any(finding.needed and not finding.ok for finding in findings) else 0)
