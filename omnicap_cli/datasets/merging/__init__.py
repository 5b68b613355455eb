"""Splits of a data set into one checked file. May import `datasets` and `core`."""
