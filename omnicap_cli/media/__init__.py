"""Bytes to pixels: where inputs are found and how they are decoded.

May import `core`.
"""
