"""The splits of a data set, counted record by record.

May import `datasets`, `media`, `core`.
"""
