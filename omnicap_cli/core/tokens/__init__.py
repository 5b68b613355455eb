"""Exact counts of visual and text tokens, and the one builder of a training sequence.

May import `core.prompts`, `core.runs`, `core.models`, `core.files`.
"""
