"""Where a model runs, its files, and how it is loaded.

May import `core.workers`, `core.files`.
"""
