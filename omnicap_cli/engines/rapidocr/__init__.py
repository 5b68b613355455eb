"""Text recognition by PP-OCR, and how a page is read from boxes. May import `engines`, `media` and `core`."""
