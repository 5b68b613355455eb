"""Batches that fit a device, planned from token counts and free memory.

May import `core.models`, `core.files`.
"""
