"""Splits of a data set as one file in which every line is checked.

May import `datasets`, `core`.
"""
