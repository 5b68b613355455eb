"""The entry point of `omnicap` and `python -m omnicap_cli`. It knows only what Ctrl-C means around a command."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line; exit code 130 for a Ctrl-C while it is still being imported."""
    try:
        from omnicap_cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code is known; nothing is left to interrupt


if __name__ == "__main__":
    main()
