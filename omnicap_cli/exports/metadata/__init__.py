"""Captions as XMP: inside copies of the pictures, or in files beside them.

May import `exports`, `media`, `core`.
"""
