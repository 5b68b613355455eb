"""Files behind URLs.

May import `media`, `core`.
"""
