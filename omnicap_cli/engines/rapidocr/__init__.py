"""Text recognition by PP-OCR, and how a page is read from its boxes.

May import `engines`, `media`, `core`.
"""
