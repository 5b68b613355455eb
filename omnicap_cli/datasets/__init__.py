"""Token counts of a training set and its merging. May import `media` and `core`."""
