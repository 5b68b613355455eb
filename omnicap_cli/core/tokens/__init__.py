"""Exact counts of visual and text tokens, and the one builder of a training sequence.

May import the other rooms of `core`.
"""
