"""Samples of a training run, from records to batches.

May import `training`, `media`, `core`.
"""
