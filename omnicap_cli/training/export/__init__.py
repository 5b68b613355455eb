"""A checkpoint as a model folder. May import `training` and `core`."""
