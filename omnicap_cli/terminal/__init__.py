"""All that writes to a person: console, progress, views, signals.

May import `training`, `datasets`, `exports`, `engines`, `media`, `core`.
"""
