"""The splits of a data set while they are counted. May import `datasets`, `media` and `core`."""
