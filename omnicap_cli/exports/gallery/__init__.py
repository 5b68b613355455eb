"""The page on which people review captions.

May import `exports`, `media`, `core`.
"""
