"""`omnicap --help` beside the `--help` of a ten-line Typer app: at most twice its time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Side, compare, print_machine, print_row, seconds

TEN_LINES = '''
import typer

app = typer.Typer()

@app.command()
def hello(name: str, count: int = 1) -> None:
    """Say hello."""
    for _ in range(count):
        print(f"Hello {name}")

app()
'''


def main() -> None:
    """Compare the two as whole processes."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "hello.py"
        script.write_text(TEN_LINES)
        ours = Side("omnicap --help", lambda: call("-m", "omnicap_cli", "--help"))
        theirs = Side("ten-line Typer app --help", lambda: call(str(script), "--help"))
        result = compare(ours, theirs, turns=15)
        details = f"{seconds(result.first)} / {seconds(result.second)}"
        print_machine("typer", "rich")
        print_row("omnicap --help / ten-line Typer app --help", result.ratio, "<= 2", details=details)


def call(*arguments: str) -> None:
    """Run Python with `arguments`, whatever it prints."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
