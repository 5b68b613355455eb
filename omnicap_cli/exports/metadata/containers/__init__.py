"""Where an XMP packet stands in each picture format, and how it is put there without touching anything else.

May import `core`.
"""
