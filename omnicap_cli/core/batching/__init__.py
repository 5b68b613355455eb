"""Batches that fit a device: plans from token counts and free memory.

May import `core.models`, `core.files` and `core.workers`.
"""
