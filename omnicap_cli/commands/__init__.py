"""The command line: one thin file for each command, and the groups of options that they share.

May import `jobs`, `terminal`, `evaluation`, `cluster`, `training`, `datasets`, `exports`, `engines`, `media`, `core`.
"""
