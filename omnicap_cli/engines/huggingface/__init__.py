"""Models through transformers: planned batches, each visual encoded once.

May import `engines`, `media`, `core`.
"""
