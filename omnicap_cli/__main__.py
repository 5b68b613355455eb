"""`python -m omnicap_cli` is `omnicap`."""

from omnicap_cli.app import main

main()
