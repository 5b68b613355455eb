"""A checkpoint as the folder of a whole model.

May import `training`, `core`.
"""
