"""One run of each command, from its configuration to its exit code.

May import `terminal`, `training`, `datasets`, `exports`, `engines`, `media`, `core`.
"""
